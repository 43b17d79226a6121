r"""What an adapter changes a weight by: LoRA and its relatives, each from the small tensors that a file has of a layer.

| kind | difference $\Delta W$, before it is scaled |
|---|---|
| LoRA | $B A$; of a convolution $A$ has the kernel and $B$ is 1×1 |
| LoCon, Tucker form | $\Delta_{oikl} = \sum_{pq} M_{pqkl} B_{op} A_{qi}$ |
| LoHa | $(A_1 B_1) \odot (A_2 B_2)$, each factor in the Tucker form for some convolutions |
| LoKr | $C_1 \otimes C_2$, each a matrix or a product of two |
| full | the difference itself, also of norms and biases |

Sources: Hu et al. 2021, arXiv:2106.09685, section 4.1 (LoRA); Yeh et al. 2023, arXiv:2309.14859, section 3 (LoCon,
LoHa, LoKr); Liu et al. 2024, arXiv:2402.09353, equation 5 (DoRA).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

# What stands behind a layer's name: the matrices of a LoRA, and the parts of the others under their own names.
PARTS = {
    "down": re.compile(r"[._]lora(?:_linear_layer)?[._](?:down|A)(?:\.default)?\.weight$"),
    "up": re.compile(r"[._]lora(?:_linear_layer)?[._](?:up|B)(?:\.default)?\.weight$"),
    "up_bias": re.compile(r"\.lora_(?:up|B)(?:\.default)?\.bias$"),
    "mid": re.compile(r"\.lora_mid\.weight$"),
    "alpha": re.compile(r"(?:_lora)?\.alpha$"),
    "magnitude": re.compile(r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?$"),
}
NAMED_PART = re.compile(
    r"\.(dora_scale|(?:hada|lokr)_w[12](?:_[ab])?|hada_t[12]|lokr_t2|diff|diff_b|w_norm|b_norm)(?:\.default)?$"
)
BIAS_PARTS = ("up_bias", "diff_b", "b_norm")
# Adapters that are not a sum with a difference.
REFUSED = {"oft_": "OFT or BOFT", "on_input": "IA3", ".a1.weight": "GLoRA", ".b1.weight": "GLoRA"}


def part_of(name: str) -> tuple[str, str] | None:
    """The layer that a tensor of an adapter's file belongs to, and which part of its change it is; None for neither."""
    if found := NAMED_PART.search(name):
        return name[: found.start()], found[1]
    for part, pattern in PARTS.items():
        if found := pattern.search(name):
            return name[: found.start()], part
    return None


def rank_of(shapes: Shapes) -> int | None:
    """The rank that alpha is divided by; None where nothing is, as the difference is stored whole."""
    for part in ("down", "hada_w1_b", "lokr_w1_b", "lokr_w2_b"):
        if shapes.get(part):
            return shapes[part][0]
    return None


def kind_of(parts: Mapping[str, object]) -> str | None:
    """Which of the table's kinds a layer's parts make, None where some are missing."""
    if parts.keys() >= {"down", "up"}:
        return "LoRA"
    if parts.keys() >= {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}:
        return "LoHa"
    if all(f"lokr_w{i}" in parts or {f"lokr_w{i}_a", f"lokr_w{i}_b"} <= parts.keys() for i in (1, 2)):
        return "LoKr"
    return "full" if {"diff", "w_norm", "diff_b", "b_norm"} & parts.keys() else None


def difference(parts: Arrays, shape: Shape) -> np.ndarray:
    """The difference of a weight of a shape, from parts that `check_shapes` has seen."""
    kind = kind_of(parts)
    if kind == "LoRA":
        up, down = parts["up"], parts["down"]
        whole = tucker(parts["mid"], up, down) if "mid" in parts else flat(up) @ flat(down)
    elif kind == "LoHa":
        first, second = (low_rank(parts, "hada", i) for i in (1, 2))
        whole = first * second.reshape(first.shape)
    elif kind == "LoKr":
        first, second = (parts[w] if (w := f"lokr_w{i}") in parts else low_rank(parts, "lokr", i) for i in (1, 2))
        whole = np.kron(first.reshape(first.shape + (1,) * (second.ndim - first.ndim)), second)
    else:
        whole = parts["diff"] if "diff" in parts else parts["w_norm"]
    return whole.reshape(shape)


def check_shapes(shapes: Shapes, shape: Shape) -> None:
    """Raise `ValueError` where the parts do not make the difference of a weight of this shape."""
    kind = kind_of(shapes)
    if kind == "LoRA":
        found = product_shape(shapes["up"], shapes["down"], shapes.get("mid"))
    elif kind == "LoHa":
        found, second = (low_rank_shape(shapes, "hada", i) for i in (1, 2))
        if (found[0], math.prod(found)) != (second[0], math.prod(second)):
            raise ValueError(f"make factors of shapes {found} and {second}")
    elif kind == "LoKr":
        first, second = (shapes.get(f"lokr_w{i}") or low_rank_shape(shapes, "lokr", i) for i in (1, 2))
        found = (first[0] * second[0], first[1] * second[1], *second[2:])
    else:
        found = shapes["diff"] if "diff" in shapes else shapes["w_norm"]
    # A convolution of 1×1 is a matrix, and a matrix may stand for the rows of any convolution.
    flattened = (shape[0], math.prod(shape[1:])) if len(shape) > 2 and len(found) == 2 else shape
    if without_unit_axes(found) != without_unit_axes(flattened):
        raise ValueError(f"make a difference of shape {found}")
    lengths = shapes.get("magnitude", shapes.get("dora_scale"))
    if lengths and math.prod(lengths) not in shape[:2]:
        raise ValueError(f"state {math.prod(lengths)} lengths")


def without_unit_axes(shape: Shape) -> Shape:
    """A weight's shape without the axes of a 1×1 kernel."""
    return shape[:2] if set(shape[2:]) == {1} else shape


def product_shape(a: Shape, b: Shape, core: Shape | None = None) -> Shape:
    """The shape of a product of two matrices, or of a core between them; `ValueError` where they have no product."""
    fits = len(a) > 1 and len(b) > 1 and set(a[2:]) <= {1}
    if not fits or (a[1] != b[0] if core is None else core[:2] != (a[1], b[0])):
        raise ValueError("have no product")
    return (a[0], *b[1:]) if core is None else (a[0], b[1], *core[2:])


def low_rank_shape(shapes: Shapes, kind: str, i: int) -> Shape:
    """The shape of `low_rank`."""
    a, b, core = shapes[f"{kind}_w{i}_a"], shapes[f"{kind}_w{i}_b"], f"{kind}_t{i}"
    return product_shape(a[::-1], b, shapes[core]) if core in shapes else product_shape(a, b)


def flat(a: np.ndarray) -> np.ndarray:  # (M, …) -> (M, N)
    """A weight as a matrix of its outputs."""
    return a.reshape(len(a), -1)


def tucker(core: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:  # (P, Q, k, l), (O, P), (Q, I)
    """The Tucker form: the core with both its first axes widened, `(O, I, k, l)`."""
    widened: np.ndarray = np.einsum("pqkl,op,qi->oikl", core, flat(up), flat(down))
    return widened


def low_rank(parts: Arrays, kind: str, i: int) -> np.ndarray:
    """A factor stored as a product of two, `(out, in)` or with a kernel's axes.

    In the Tucker form, with a core between them, the first of the two is transposed.
    """
    a, b, core = parts[f"{kind}_w{i}_a"], parts[f"{kind}_w{i}_b"], f"{kind}_t{i}"
    if core in parts:
        return tucker(parts[core], a.T, b)
    product: np.ndarray = a @ flat(b)
    return product.reshape(len(a), *b.shape[1:])


def changed(weight: np.ndarray, parts: Arrays, factor: float, strength: float) -> np.ndarray:
    """A weight with a change applied, `factor` times its difference, as strongly as `strength` says.

    DoRA gives the sum's rows (or columns) the lengths that the file states. PEFT's lengths are those of the sum with
    the scaled difference; LyCORIS's of the whole one, and a strength below 1 then lies between the weight and that.
    """
    delta = weight.dtype.type(factor) * difference(parts, weight.shape)
    if "magnitude" in parts:
        return with_lengths(weight + weight.dtype.type(strength) * delta, parts["magnitude"].reshape(-1, 1))
    if "dora_scale" in parts:
        lengths = parts["dora_scale"].reshape(parts["dora_scale"].shape[:2])
        delta = with_lengths(weight + delta, lengths) - weight
    summed: np.ndarray = weight + weight.dtype.type(strength) * delta
    return summed


def with_lengths(weight: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A weight whose rows have the lengths `(out, 1)`, or whose columns have the lengths `(1, in)`."""
    by_row = lengths.shape[1] == 1
    axes = tuple(i for i in range(weight.ndim) if i != (0 if by_row else 1))
    norm = np.sqrt(np.sum(weight * weight, axis=axes, keepdims=True))
    scale = lengths.reshape(norm.shape) / (norm + np.finfo(weight.dtype).eps)
    scaled: np.ndarray = weight * scale
    return scaled
