"""Several processes that train one model: how they meet, what they tell each other, and how they end."""
