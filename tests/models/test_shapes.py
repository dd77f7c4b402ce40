"""How two trees of arrays differ, as the user reads it."""

from genret_jax.models.shapes import shape_difference


def test_difference_is_short_however_much_differs():
    expected = {f"layer_{i}": (2, 3) for i in range(500)}
    text = shape_difference({f"other_{i}": (1,) for i in range(500)}, expected)
    assert text.startswith("500 missing: layer_0 [2, 3], layer_1 [2, 3]")
    assert text.count("[") <= 10
    assert "and 495 more" in text
    assert shape_difference(expected, expected) == ""


def test_layers_that_differ_alike_are_named_once():
    expected = {f"decoder/layers_{i}/mlp/wi_0/kernel": (4, 8) for i in range(12)} | {"decoder/norm/scale": (4,)}
    found = {f"decoder/layers_{i}/mlp/wi_0/kernel": (4, 8 if i < 2 else 6) for i in range(11)} | {"head": (1,)}
    assert shape_difference(found, expected) == (
        "2 missing: decoder/layers_11/mlp/wi_0/kernel [4, 8], decoder/norm/scale [4]; "
        "1 unexpected: head [1]; "
        "9 different: decoder/layers_*/mlp/wi_0/kernel ×9 [4, 6] instead of [4, 8]"
    )


def test_types_are_compared_where_they_are_given():
    found, expected = {"a": ["bfloat16", [2]], "b": ["float32", []]}, {"a": ["float32", (2,)], "b": ("float32", ())}
    assert shape_difference(found, expected) == "1 different: a bfloat16[2] instead of float32[2]"
