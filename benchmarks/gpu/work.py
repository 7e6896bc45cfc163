"""What the cells ask of a GPU: operations and bytes per token and head, as the kernels do them.

Useful operations alone count: of the products inside a chunk the half on and below the diagonal, and nothing that
backward computes again.
"""

CHUNK = 256  # steps, whatever the kernels choose: what counts as useful must not depend on it


def mlstm(key: int, value: int, chunk: int) -> dict[str, float]:
    """Operations: a state's update and its reading, 2 K V each; half of the scores and of what they weigh, L (K + V).

    Backward: q, k, v from states and their gradients, and the gradients' update, 8 K V; five products inside a chunk.
    """
    forward = 4 * key * value + chunk * (key + value)
    return {"forward": forward, "both": forward + 8 * key * value + chunk * (3 * key + 2 * value)}


def mlstm_bytes(key: int, value: int, chunk: int, width: int = 2) -> dict[str, float]:
    """Bytes to and from memory, were each tensor moved once by each kernel that needs it; gates are 4 bytes.

    Forward: k, v for the states; q, k, v, h for the outputs; a state written and read per chunk. Backward: dh, h; q, dh
    for the gradients of states, which are written; v, dh, k, q for dq and dk each, k, q, dh for dv; of states one read
    there and one for the gates, of their gradients two.
    """
    states = key * value * width / chunk
    forward = 3 * width * (key + value) + 2 * states + 32
    return {"forward": forward, "both": forward + 9 * width * (key + value) + 5 * states + 64}


def recurrent(size: int) -> dict[str, float]:
    """Operations: four products of R and h, forward; R's transpose and its gradient backward."""
    return {"forward": 8 * size**2, "both": 24 * size**2}


def recurrent_bytes(size: int, kept: int = 3, width: int = 2) -> dict[str, float]:
    """x read, h written; for backward the states c (n, m) of a step in float32 written.

    Backward: these, x and dh read; R h of all steps written and read, d raw written and read, h read for both products.
    """
    forward = 5 * width * size
    return {"forward": forward, "both": forward + size * (8 * kept + width * (4 + 1 + 8 + 8 + 2))}
