"""From a network and a docid index to ranked documents, for tokenised inputs."""
