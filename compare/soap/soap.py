"""
How far SOAP's weights after 30 steps depend on rounding, and on the basis that is chosen where the first gradients leave it open.
Vyas et al.: «SOAP: Improving and Stabilizing Shampoo using Adam», 2024, algorithm 3.

    python compare/soap/soap.py        # needs NumPy
"""

import numpy as np


def lapack(a):
    return np.linalg.qr(a)[0]


def gram_schmidt(a):
    a, q = a.copy(), np.zeros_like(a)
    for j in range(a.shape[1]):
        q[:, j] = a[:, j] / np.sqrt((a[:, j] ** 2).sum())
        a[:, j + 1 :] -= np.outer(q[:, j], q[:, j] @ a[:, j + 1 :])
    return q


def first_basis(a, kind):
    """The eigenvectors of a symmetric matrix, the largest first; `other` turns those of eigenvalue 0 among themselves."""
    if kind == "identity":
        return np.eye(len(a), dtype=a.dtype)
    values, vectors = np.linalg.eigh(a.astype(np.float64))
    values, vectors = values[::-1], vectors[:, ::-1].copy()
    rank = int((values > 1e-10 * values[0]).sum())
    if kind == "other" and rank < len(a):
        size = len(a) - rank
        vectors[:, rank:] = vectors[:, rank:] @ lapack(np.random.default_rng(5).normal(size=(size, size)))
    return vectors.astype(a.dtype)


def soap(dtype, qr, basis, freq, batch, rows, columns=8, steps=30, lr=3e-2, beta=0.95, eps=1e-8):
    """The weights of a linear regression, and its loss."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(64, rows))
    y = x @ draw.normal(size=(rows, columns)) + 0.1 * draw.normal(size=(64, columns))
    w = np.zeros((rows, columns), dtype)
    left, right = np.zeros((rows, rows), dtype), np.zeros((columns, columns), dtype)
    m, v, bases = np.zeros_like(w), np.zeros_like(w), None
    for t in range(steps + 1):
        chosen = draw.permutation(64)[:batch]
        own = x[chosen].astype(dtype)
        g = (own.T @ (own @ w - y[chosen].astype(dtype)) / batch).astype(dtype)
        left = (beta * left + (1 - beta) * g @ g.T).astype(dtype)
        right = (beta * right + (1 - beta) * g.T @ g).astype(dtype)
        if bases is None:
            # The first gradient makes the basis, and no step.
            bases = [first_basis(left, basis), first_basis(right, basis)]
            continue
        p, q = bases
        m = beta * m + (1 - beta) * g
        v = beta * v + (1 - beta) * (p.T @ g @ q) ** 2
        step = p @ (p.T @ m @ q / (np.sqrt(v) + eps)) @ q.T
        w = (w - lr * np.sqrt(1 - beta**t) / (1 - beta**t) * step).astype(dtype)
        if t % freq == 0:
            for axis, sums in enumerate([left, right]):
                order = np.argsort(-np.diag(bases[axis].T @ sums @ bases[axis]), kind="stable")
                v = np.take(v, order, axis)
                bases[axis] = qr((sums @ bases[axis][:, order]).astype(dtype))
    return w.astype(np.float64), ((x @ w - y) ** 2).mean()


CASES = {
    "Gram-Schmidt, float64": (np.float64, gram_schmidt, "eigenvectors"),
    "LAPACK, float32": (np.float32, lapack, "eigenvectors"),
    "Gram-Schmidt, float32": (np.float32, gram_schmidt, "eigenvectors"),
    "another null space, float64": (np.float64, lapack, "other"),
    "identity at first, float64": (np.float64, lapack, "identity"),
}
for rows, batch in [(12, 4), (8, 64)]:
    for freq in [1, 10]:
        want, loss = soap(np.float64, lapack, "eigenvectors", freq, batch, rows)
        for name, case in CASES.items():
            got, other = soap(*case, freq, batch, rows)
            off = np.linalg.norm(got - want) / np.linalg.norm(want)
            print(f"{rows} x 8, batch {batch}, every {freq}: {name:28} {off:.1e}  loss {other:.3f} of {loss:.3f}")

draw = np.random.default_rng(0)
for size in [64, 256, 512]:
    half = draw.normal(size=(size, size // 2))
    a = (half @ half.T / size).astype(np.float32) @ lapack(draw.normal(size=(size, size))).astype(np.float32)
    for name, qr in [("Gram-Schmidt", gram_schmidt), ("LAPACK", lapack)]:
        q = qr(a)
        print(f"{size} x {size} of half the rank, {name}: |QᵀQ - I| {np.abs(q.T @ q - np.eye(size)).max():.0e}")
basis = lapack(draw.normal(size=(32, 32)))
u, _, vt = np.linalg.svd(half[:32] @ half[:32].T @ basis)
print(f"polar factor of A Q against Q: {np.abs(u @ vt - basis).max():.0e}")
