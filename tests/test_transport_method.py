"""CBO of networks as measures: steps against the reference, the contraction theorem, what must not matter."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest

import cbokernels as cbk
from cbokernels import reference

NET = cbk.TwoLayer(2, 7, 1)
SAMPLES = 40


def data(dtype="float64"):
    x = np.random.default_rng(5).random((SAMPLES, 2))
    return x.astype(dtype), (x[:, 0] ** 2 - x[:, 1]).astype(dtype)


X, Y = data()


def train(method, *, net=NET, dtype="float64", **settings):
    return cbk.train(net, *data(dtype), method, dtype=dtype, **settings)


def permuted(net, theta, rng):
    """Every particle's neurons in another order."""
    atoms = net.atoms(theta)
    return net.from_atoms(np.stack([rng.permutation(particle) for particle in atoms]))


def test_defaults_are_the_papers():
    method = cbk.TransportCBO()
    assert method.particles == 100
    assert method.alpha == cbk.Tenfold(1e4, every=100, cap=1e7)
    assert method.diffusion == cbk.Geometric(1.2**0.5, 0.9, every=100)
    assert (method.drift, method.dt, method.iterations) == (1.0, 0.1, 1)
    assert pickle.loads(pickle.dumps(method)) == method


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("alpha", [5.0, cbk.TargetEss(0.5)])
def test_steps_are_the_references(alpha, iterations, dtype):
    method = cbk.TransportCBO(
        particles=9, alpha=alpha, diffusion=cbk.Geometric(0.4, 0.5), drift=0.8, iterations=iterations
    )
    rows = []
    result = train(method, dtype=dtype, epochs=4, seed=11, callback=lambda s: rows.append(s.particles.copy()))
    history, tolerance = result.history, 1e-12 if dtype == "float64" else 2e-5
    theta, support, match = NET.uniform(9, seed=11, dtype=dtype), None, np.tile(np.arange(7), (9, 1))
    x, y = data()
    for epoch in range(4):
        theta = theta.astype(float)
        risks = reference.risk(NET, theta, x, y)
        weights = reference.consensus(theta, risks, alpha=history["alpha"][epoch]).weights
        if support is None:
            support = NET.atoms(theta)[risks.argmin()]
        atoms = NET.atoms(theta)
        found = reference.barycenter(atoms, weights, support=support, iterations=iterations)
        support = found.support
        moved = reference.transport_update(
            atoms, support, found.match, drift=0.8, diffusion=0.4 * 0.5**epoch, seed=11, step=epoch
        )
        np.testing.assert_allclose(rows[epoch], NET.from_atoms(moved), rtol=tolerance, atol=tolerance)
        assert history["ess"][epoch] == pytest.approx(1 / (weights**2).sum(), rel=1e-3)
        assert history["objective"][epoch] == pytest.approx(found.objective, rel=100 * tolerance)
        gaps = ((atoms - support[found.match]) ** 2).sum(-1).mean() / 2
        assert history["wasserstein_variance"][epoch] == pytest.approx(gaps, rel=100 * tolerance)
        assert history["moved"][epoch] == (found.match != match).sum()
        theta, match = rows[epoch], found.match  # rounding must not part them
    point = NET.from_atoms(support)
    np.testing.assert_allclose(result.parameters, point, rtol=tolerance, atol=tolerance)
    expected = reference.risk(NET, point[None], x, y)[0]
    assert history["risk"][-1] == pytest.approx(expected, rel=100 * tolerance)
    columns = ["objective", "wasserstein_variance", "moved"]
    assert list(history) == ["epoch", "risk", "alpha", "ess", "variance", "seconds", *columns]


@pytest.mark.parametrize(("drift", "dt"), [(1.0, 0.1), (2.0, 0.25), (1.0, 0.9), (1.0, 1.0)])
def test_variance_contracts_as_the_theorem_says(drift, dt):
    """[De Deyn, Herty, Samaey 2025, prop. 3]: V falls at least by (1 - drift dt)² a step."""
    method = cbk.TransportCBO(particles=12, alpha=0.0, drift=drift, dt=dt, diffusion=0.0)
    for iterations in (1, 4):
        result = train(cbk.TransportCBO(**{**vars(method), "iterations": iterations}), epochs=12, seed=2)
        variance = result.history["wasserstein_variance"]
        bound = (1 - drift * dt) ** 2 * variance[:-1]
        assert (variance[1:] <= bound * (1 + 1e-9) + 1e-25).all()
        assert variance[0] > 0
        assert result.history["ess"] == pytest.approx([12] * 12)


def test_the_euclidean_average_would_not_contract_that_way():
    """The same neurons in other orders are one measure: V sees none of the spread that the variance sees."""
    rng = np.random.default_rng(0)
    theta = permuted(NET, NET.uniform(1, seed=1, dtype="float64").repeat(8, axis=0), rng)
    result = train(cbk.TransportCBO(alpha=0.0, diffusion=0.0), theta=theta, epochs=1)
    assert result.history["variance"][0] > 0.1
    assert result.history["wasserstein_variance"][0] == pytest.approx(0, abs=1e-25)
    np.testing.assert_allclose(result.particles, theta, rtol=1e-13)


@pytest.mark.parametrize("alpha", [0.0, 3.0, 1e7])
def test_order_of_neurons_does_not_matter(alpha):
    """Whole runs (without noise, which knows numbers) are the same as measures."""
    rng = np.random.default_rng(7)
    theta = NET.uniform(10, seed=3, dtype="float64")
    method = cbk.TransportCBO(alpha=alpha, diffusion=0.0)
    one, two = (train(method, theta=t, epochs=6, batch_size=20) for t in (theta, permuted(NET, theta, rng)))
    assert abs(one.particles - two.particles).max() > 0.1
    assert cbk.wasserstein_over_wasserstein(NET.atoms(one.particles), NET.atoms(two.particles)) < 1e-20
    points = (NET.atoms(run.parameters)[None] for run in (one, two))
    assert cbk.wasserstein2(*points).item() < 1e-20
    for name in ("risk", "objective", "wasserstein_variance"):
        np.testing.assert_allclose(one.history[name], two.history[name], rtol=1e-9, atol=1e-20)


def test_one_neuron_is_plain_cbo(dtype):
    net = cbk.TwoLayer(2, 1, 1)
    shared = dict(particles=20, alpha=10.0, diffusion=cbk.Geometric(0.3, 0.9), drift=1.0, dt=0.1)
    methods = cbk.TransportCBO(**shared), cbk.CBO(**shared, noise="additive")
    one, two = (train(m, net=net, dtype=dtype, epochs=5, batch_size=20, seed=4) for m in methods)
    tolerance = 1e-13 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(one.particles, two.particles, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.parameters, two.parameters, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(one.history["ess"], two.history["ess"], rtol=10 * tolerance)
    assert (one.history["moved"] == 0).all()


def test_one_particle_is_its_own_barycenter():
    theta = NET.uniform(1, seed=9, dtype="float64")
    result = train(cbk.TransportCBO(alpha=0.0, diffusion=0.0), theta=theta, epochs=3)
    np.testing.assert_array_equal(result.parameters, theta[0])
    np.testing.assert_array_equal(result.particles, theta)
    assert (result.history["wasserstein_variance"] == 0).all()


def test_couplings_are_optimal_after_many_warm_steps():
    """The last step's V, with partners found from those of the steps before, is that of cold assignments."""
    seen = []
    method = cbk.TransportCBO(particles=30, alpha=cbk.TargetEss(0.3), diffusion=0.3)
    net = cbk.TwoLayer(2, 40, 1)

    def look(state):
        seen.append((state.particles.copy(), state.point))

    result = train(method, net=net, epochs=25, seed=6, callback=look)
    (particles, before), (_, point) = seen[-2:]
    atoms, support = net.atoms(particles), net.atoms(point)
    match = cbk.assign(atoms, net.atoms(before)).match
    fresh = ((atoms - support[match]) ** 2).sum(-1).mean() / 2
    assert result.history["wasserstein_variance"][-1] == pytest.approx(fresh, rel=1e-9)


@pytest.mark.parametrize("tasks", [1, 3])
def test_exact_variance_is_solved_anew_and_changes_nothing_else(tasks, dtype):
    y = data()[1] + np.arange(tasks)[:, None]
    settings = dict(particles=12, alpha=cbk.TargetEss(0.3), diffusion=0.3)
    seen = [NET.uniform(12, seed=8, dtype=dtype)]
    arguments = dict(epochs=6, dtype=dtype, seed=8)
    points = []

    def look(state):
        seen.append(state.particles.copy())
        points.append(NET.atoms(state.point))

    method = cbk.TransportCBO(**settings, exact_variance=True)
    result = cbk.train(NET, X.astype(dtype), y, method, callback=look, **arguments)
    plain = cbk.train(NET, X.astype(dtype), y, cbk.TransportCBO(**settings), **arguments)
    task, history = np.arange(12) * tasks // 12, result.history
    exact = history["wasserstein_variance_exact"]
    for epoch in range(6):
        atoms = NET.atoms(seen[epoch])
        costs = [reference.assign(atoms[n : n + 1], points[epoch][task[n]]).cost[0] for n in range(12)]
        assert exact[epoch] == pytest.approx(np.mean(costs) / 2, rel=1e-12 if dtype == "float64" else 1e-5)
    rounding = 1e-12 if dtype == "float64" else 4e-6
    assert (exact <= history["wasserstein_variance"] * (1 + rounding)).all()
    assert (exact < history["wasserstein_variance"] * (1 - 1e-6)).any()
    np.testing.assert_array_equal(result.particles, plain.particles)
    assert history.keys() - plain.history.keys() == {"wasserstein_variance_exact"}


def test_variances_agree_where_the_coupling_is_optimal():
    """Neurons in clusters far apart: each cluster's are partners, whatever the support."""
    net = cbk.TwoLayer(2, 6, 1)
    theta = net.uniform(5, seed=3, dtype="float64")
    corners = np.zeros_like(theta)
    corners[:, :12] = np.repeat(10.0 * np.arange(6), 2)
    method = cbk.TransportCBO(alpha=0.0, diffusion=0.2, exact_variance=True)
    history = train(method, net=net, theta=theta + corners, epochs=5).history
    np.testing.assert_allclose(
        history["wasserstein_variance_exact"], history["wasserstein_variance"], rtol=1e-12
    )


def test_same_bits_for_any_number_of_threads(dtype):
    net = cbk.TwoLayer(2, 60, 1)
    method = cbk.TransportCBO(particles=40, alpha=cbk.TargetEss(0.25))
    runs = [
        train(method, net=net, dtype=dtype, epochs=4, batch_size=20, seed=1, num_threads=n) for n in (1, 3, 4)
    ]
    for run in runs[1:]:
        np.testing.assert_array_equal(run.particles, runs[0].particles)
        np.testing.assert_array_equal(run.parameters, runs[0].parameters)
        for name in ("risk", "objective", "wasserstein_variance", "moved", "alpha"):
            np.testing.assert_array_equal(run.history[name], runs[0].history[name])


def test_resuming_gives_the_same_bits(tmp_path):
    method = cbk.TransportCBO(particles=15, alpha=cbk.TargetEss(0.25), iterations=2)
    settings = dict(batch_size=20, seed=3, dtype="float32")
    whole = train(method, epochs=8, **settings)
    path = tmp_path / "run.npz"
    train(method, epochs=5, checkpoint=path, every=3, **settings)
    resumed = train(method, epochs=8, checkpoint=path, resume=True, **settings)
    np.testing.assert_array_equal(resumed.particles, whole.particles)
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    for name in whole.history:
        if name != "seconds":
            np.testing.assert_array_equal(resumed.history[name], whole.history[name])


def test_a_particle_without_a_finite_risk_has_no_weight():
    """Its outputs overflow; it moves towards the barycenter of the others and is never averaged."""
    net = cbk.TwoLayer(1, 3, 1, activation="identity")
    theta = net.uniform(6, seed=0, dtype="float32")
    theta[2] = 1e25
    x, y = np.ones((4, 1)), np.zeros(4)
    method = cbk.TransportCBO(alpha=0.0, diffusion=0.0, dt=1.0)
    with pytest.warns(cbk.CboWarning, match="NaN or infinite"):
        result = cbk.train(net, x, y, method, theta=theta, epochs=1)
    assert abs(result.parameters).max() < 1
    assert result.history["ess"][0] == pytest.approx(5)
    assert abs(result.particles[2]).max() < 1e20


def test_atoms_that_overflow_are_an_error():
    method = cbk.TransportCBO(particles=6, alpha=np.inf, drift=-1e20, dt=1.0, diffusion=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", cbk.CboWarning)
        with pytest.raises(cbk.ConsensusError, match=r"epoch 3, .* cannot be assigned"):
            train(method, dtype="float32", epochs=9)


def test_what_is_refused():
    biased = cbk.TwoLayer(2, 7, 1, output_bias=True)
    with pytest.raises(ValueError, match="without output_bias"):
        train(cbk.TransportCBO(), net=biased)
    with pytest.raises(ValueError, match="iterations"):
        cbk.TransportCBO(iterations=0)
    with pytest.raises(ValueError, match="diffusion"):
        cbk.TransportCBO(diffusion=-1.0)
    with pytest.raises(TypeError, match="noise"):
        cbk.TransportCBO(noise="additive")
    with pytest.raises(TypeError, match="exact_variance"):
        cbk.TransportCBO(exact_variance=1)
    with pytest.raises(TypeError, match="needs no network"):
        cbk.minimize(lambda t: t.sum(axis=1), np.ones((4, 2)), cbk.TransportCBO())


def test_it_trains():
    """The paper's square at a small size, float32: far below the risk of a constant, 0.089."""
    rng = np.random.default_rng(1)
    x = rng.random((400, 1))
    net = cbk.TwoLayer(1, 20, 1)
    theta = net.uniform(50, -2.0, 2.0, seed=0)
    result = cbk.train(net, x, x[:, 0] ** 2, cbk.TransportCBO(), theta=theta, epochs=150, batch_size=200)
    assert result.history["risk"][-1] < 6e-3
    np.testing.assert_allclose(
        result.predict(x)[:, 0], cbk.forward(net, result.parameters[None], x.astype("float32"))[0, :, 0]
    )
