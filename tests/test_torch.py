"""PyTorch's modules, autograd and torch.func are what the bridge is held against."""

from __future__ import annotations

import numpy as np
import pytest

import cbokernels as cbk

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
nn = torch.nn

import cbokernels.torch as bridge  # noqa: E402

ACTIVATIONS = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "softplus": nn.Softplus,
    "identity": nn.Identity, "leaky_relu": nn.LeakyReLU, "silu": nn.SiLU,
}  # fmt: skip
TOLERANCE = {"float32": {"rtol": 2e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}
LOSSES = {
    "mse": lambda outputs, y: (outputs - y).square().sum(-1).mean(),
    "cross_entropy": torch.nn.functional.cross_entropy,
}


def module(activation="tanh", dtype="float32", outputs=2, bias=True, seed=0):
    torch.manual_seed(seed)
    kinds = {"dtype": getattr(torch, dtype)}
    return nn.Sequential(
        nn.Linear(3, 5, **kinds),
        ACTIVATIONS[activation](),
        nn.Linear(5, outputs, bias=bias, **kinds),
    )


def problem(dtype="float32", particles=4, seed=0, **shape):
    """An ensemble of modules and the same as (net, theta); x; y by the loss."""
    modules = [module(dtype=dtype, seed=seed + i, **shape) for i in range(particles)]
    net, _ = cbk.TwoLayer.from_torch(modules[0])
    theta = torch.cat([cbk.TwoLayer.from_torch(m)[1] for m in modules])
    x = torch.randn(20, 3, dtype=theta.dtype)
    y = {
        "mse": torch.randn(20, net.outputs, dtype=theta.dtype),
        "cross_entropy": torch.arange(20) % net.outputs,
    }
    return modules, net, theta, x, y


def of_modules(modules, x, y, loss):
    """Risks, and gradients by PyTorch, in theta's order."""
    risks = [LOSSES[loss](m(x), y) for m in modules]
    gradients = [torch.autograd.grad(r, list(m.parameters())) for r, m in zip(risks, modules, strict=True)]
    flat = [torch.cat([part.reshape(-1) for part in parts]) for parts in gradients]
    return torch.stack([r.detach() for r in risks]), torch.stack(flat)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_modules_become_networks_of_the_same_outputs(activation, bias, dtype):
    given = module(activation, dtype, bias=bias)
    net, theta = cbk.TwoLayer.from_torch(given)
    assert net == cbk.TwoLayer(3, 5, 2, activation, scaling="none", output_bias=bias)
    assert theta.shape == (1, net.size)
    assert theta.dtype == getattr(torch, dtype)
    assert not theta.requires_grad
    x = 3 * torch.randn(50, 3, dtype=theta.dtype)
    expected = given(x).detach().numpy()
    np.testing.assert_allclose(cbk.forward(net, theta, x)[0].numpy(), expected, **TOLERANCE[dtype])
    before = theta.clone()
    with torch.no_grad():
        given[0].weight.zero_()
    assert torch.equal(theta, before)  # memory of its own


@pytest.mark.parametrize("as_numpy", [True, False])
@pytest.mark.parametrize("output_bias", [True, False])
@pytest.mark.parametrize("scaling", ["mean", "none"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_networks_become_modules_of_the_same_outputs(activation, scaling, output_bias, as_numpy, dtype):
    net = cbk.TwoLayer(3, 7, 2, activation, scaling=scaling, output_bias=output_bias)
    theta = net.uniform(1, -2, 2, seed=3, dtype=dtype)
    given = theta[0] if as_numpy else torch.from_numpy(theta)[0]
    made = net.to_torch(given)
    assert [type(part) for part in made] == [nn.Linear, ACTIVATIONS[activation], nn.Linear]
    assert (made[2].bias is not None) == output_bias
    assert all(p.requires_grad and p.dtype == getattr(torch, dtype) for p in made.parameters())
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(dtype)
    expected = cbk.reference.forward(net, theta.astype(float), x.astype(float))[0]
    np.testing.assert_allclose(made(torch.from_numpy(x)).detach().numpy(), expected, **TOLERANCE[dtype])


def test_there_and_back():
    given = module("gelu")
    net, theta = cbk.TwoLayer.from_torch(given)
    again = net.to_torch(theta[0])
    for a, b in zip(given.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.data_ptr() != b.data_ptr()
    np.testing.assert_array_equal(cbk.TwoLayer.from_torch(again)[1].numpy(), theta.numpy())


def test_no_random_numbers_are_drawn():
    net = cbk.TwoLayer(3, 5)
    theta = net.uniform(1, seed=0)[0]
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    net.to_torch(theta)
    assert torch.equal(torch.rand(3), expected)


def test_a_first_layer_without_bias_has_biases_of_zero():
    given = nn.Sequential(nn.Linear(3, 5, bias=False), nn.ReLU(), nn.Linear(5, 1))
    net, theta = cbk.TwoLayer.from_torch(given)
    assert not net.unpack(theta)[1].any()
    x = torch.randn(9, 3)
    np.testing.assert_allclose(cbk.forward(net, theta, x)[0], given(x).detach(), **TOLERANCE["float32"])


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


LINEARS = nn.Linear(3, 5), nn.Linear(5, 1)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (nn.Linear(3, 5), r"Sequential of Linear, activation, Linear, got Linear"),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU()), r"got Sequential of Linear, ReLU"),
        (
            nn.Sequential(LINEARS[0], nn.ReLU(), nn.Dropout(), LINEARS[1]),
            "got Sequential of Linear, ReLU, Dr",
        ),
        (nn.Sequential(nn.ReLU(), nn.ReLU(), LINEARS[1]), "got Sequential of ReLU"),
        (nn.Sequential(Doubled(3, 5), nn.ReLU(), LINEARS[1]), "got Sequential of Doubled"),
        (nn.Sequential(LINEARS[0], nn.ReLU(), nn.Linear(4, 1)), "second Linear of 5 inputs.* got 4"),
        (nn.Sequential(LINEARS[0], nn.ELU(), LINEARS[1]), r"activations ReLU, Tanh, .*, got ELU"),
        (nn.Sequential(LINEARS[0], nn.GELU("tanh"), LINEARS[1]), r"GELU\(approximate='none'\).*'tanh'"),
        (
            nn.Sequential(LINEARS[0], nn.Softplus(beta=2), LINEARS[1]),
            r"Softplus\(beta=1.*got Softplus\(beta=2",
        ),
        (
            nn.Sequential(LINEARS[0], nn.LeakyReLU(0.2), LINEARS[1]),
            r"LeakyReLU\(negative_slope=0.01\) for 'leaky_relu', got LeakyReLU\(negative_slope=0.2",
        ),
        ("a module", "got 'a module'"),
    ],
)
def test_other_modules_are_refused(wrong, message):
    with pytest.raises(ValueError, match=f"module must (be|have).*{message}"):
        cbk.TwoLayer.from_torch(wrong)


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("at", [None, 0, 1, 2])
def test_modules_with_hooks_are_refused(hook, at):
    module = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))
    handle = getattr(module if at is None else module[at], hook)(lambda *_: None)
    with pytest.raises(ValueError, match="module must have no forward hooks, got"):
        cbk.TwoLayer.from_torch(module)
    handle.remove()
    cbk.TwoLayer.from_torch(module)


def test_wrong_parameters_are_named():
    with pytest.raises(
        TypeError, match=r"module must have parameters of float32 or of float64, got .*float16"
    ):
        cbk.TwoLayer.from_torch(module().half())
    net = cbk.TwoLayer(3, 5)
    with pytest.raises(ValueError, match=r"theta must have shape \[25\], one network's, got \[2, 25\]"):
        net.to_torch(net.uniform(2, seed=0))
    with pytest.raises(TypeError, match=r"theta must be float32 or float64, got .*int64"):
        net.to_torch(np.zeros(25, int))
    with pytest.raises(TypeError, match="theta must be an array"):
        net.to_torch([0.0] * 25)


def test_activations_without_a_module_are_told(monkeypatch):
    monkeypatch.setattr("cbokernels._modules._classes", lambda nn: {"relu": nn.ReLU})
    net = cbk.TwoLayer(3, 5, activation="tanh")
    with pytest.raises(ValueError, match="to_torch expects one of the activations relu, got 'tanh'"):
        net.to_torch(net.uniform(1, seed=0)[0])


@pytest.mark.parametrize("activation", ["sin", "erf", "sign", "step"])
def test_activations_that_pytorch_has_no_module_of(activation):
    net = cbk.TwoLayer(3, 5, activation=activation)
    with pytest.raises(
        ValueError, match=f"to_torch expects one of the activations relu, .*got '{activation}'"
    ):
        net.to_torch(net.uniform(1, seed=0)[0])


@pytest.mark.parametrize("activation", ["sign", "step"])
def test_jumps_have_risks_and_no_gradients(activation):
    net = cbk.TwoLayer(3, 5, activation=activation)
    theta, x, y = torch.from_numpy(net.uniform(4, seed=0)), torch.randn(20, 3), torch.randn(20)
    risks = bridge.risk(net, theta, x, y)
    np.testing.assert_array_equal(risks, cbk.risk(net, theta, x, y))
    with pytest.raises(ValueError, match=f"a gradient needs an activation among .*got '{activation}'"):
        bridge.risk(net, theta.requires_grad_(), x, y)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_risks_and_gradients_are_those_of_modules(activation, loss, dtype):
    modules, net, theta, x, y = problem(dtype, activation=activation)
    expected, slopes = of_modules(modules, x, y[loss], loss)
    theta.requires_grad_()
    risks = bridge.risk(net, theta, x, y[loss], loss=loss)
    assert risks.dtype == torch.float64
    incoming = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    risks.backward(incoming)
    np.testing.assert_allclose(risks.detach(), expected, **TOLERANCE[dtype])
    assert theta.grad.dtype == theta.dtype
    wanted = slopes * incoming[:, None].to(slopes.dtype)
    np.testing.assert_allclose(theta.grad, wanted, rtol=2e-4 if dtype == "float32" else 1e-10, atol=2e-6)


def test_gradients_flow_through_what_is_around():
    modules, net, theta, x, y = problem("float64", activation="softplus")
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    bridge.risk(net, scale * theta, x, y["mse"]).log().sum().backward()
    other = scale.detach().clone().requires_grad_()
    total = 0
    for m in modules:
        scaled = {name: other * p.detach() for name, p in m.named_parameters()}
        total = total + LOSSES["mse"](torch.func.functional_call(m, scaled, (x,)), y["mse"]).log()
    total.backward()
    torch.testing.assert_close(scale.grad, other.grad, rtol=1e-10, atol=0)


def test_gradcheck():
    _, net, theta, x, y = problem("float64", activation="sigmoid", particles=2)
    for loss in LOSSES:
        assert torch.autograd.gradcheck(
            lambda t, loss=loss: bridge.risk(net, t, x, y[loss], loss=loss), theta.clone().requires_grad_()
        )


def test_one_call_computes_risks_and_gradients(monkeypatch):
    calls = []
    for name in ("_risk", "_risk_gradient"):
        kernel = getattr(bridge, name)
        monkeypatch.setattr(bridge, name, lambda *a, f=kernel, n=name, **k: (calls.append(n), f(*a, **k))[1])
    _, net, theta, x, y = problem()
    assert not bridge.risk(net, theta, x, y["mse"]).requires_grad
    with torch.no_grad():
        assert not bridge.risk(net, theta.clone().requires_grad_(), x, y["mse"]).requires_grad
    assert calls == ["_risk", "_risk"]
    calls.clear()
    bridge.risk(net, theta.clone().requires_grad_(), x, y["mse"]).sum().backward()
    assert calls == ["_risk_gradient"]


@pytest.mark.parametrize("loss", LOSSES)
def test_torch_func(loss):
    """vmap over networks and over ensembles, grad, and both."""
    modules, net, theta, x, y = problem("float64")
    expected, slopes = of_modules(modules, x, y[loss], loss)

    def one(t):
        return bridge.risk(net, t[None], x, y[loss], loss=loss)[0]

    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(torch.func.vmap(one)(theta), expected, **close)
    torch.testing.assert_close(torch.func.grad(one)(theta[1]), slopes[1], **close)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(one))(theta), slopes, **close)
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(one), 1)(theta.T.contiguous()), slopes, **close
    )
    many = torch.func.vmap(lambda t: bridge.risk(net, t, x, y[loss], loss=loss))
    pair = [theta, theta.flip(0)]
    torch.testing.assert_close(many(torch.stack(pair))[1], expected.flip(0), **close)
    second = torch.func.vmap(lambda t: bridge.risk(net, t, x, y[loss], loss=loss), 1)
    torch.testing.assert_close(second(torch.stack(pair, 1))[1], expected.flip(0), **close)
    jacobian = torch.func.jacrev(lambda t: bridge.risk(net, t, x, y[loss], loss=loss))(theta)
    torch.testing.assert_close(jacobian, torch.diag_embed(slopes.T).permute(1, 2, 0), **close)


def test_mapping_over_the_data_is_refused():
    _, net, theta, x, y = problem()
    mapped = torch.func.vmap(lambda a: bridge.risk(net, theta, a, y["mse"]))
    with pytest.raises(cbk.CboError, match="mapped over theta alone"):
        mapped(torch.stack([x, x]))


def test_second_derivatives_are_refused():
    _, net, theta, x, y = problem()
    theta.requires_grad_()
    (slope,) = torch.autograd.grad(bridge.risk(net, theta, x, y["mse"]).sum(), theta, create_graph=True)
    with pytest.raises(cbk.CboError, match="first derivatives only"):
        slope.square().sum().backward()


def test_an_optimiser_trains_an_ensemble_as_it_trains_modules():
    """Adam's steps on [N, D] are its steps on each module's parameters."""
    modules, net, theta, x, y = problem("float64")
    optimiser = torch.optim.Adam([theta.requires_grad_()], lr=0.05)
    each = torch.optim.Adam([p for m in modules for p in m.parameters()], lr=0.05)
    for _ in range(20):
        optimiser.zero_grad()
        bridge.risk(net, theta, x, y["mse"]).sum().backward()
        optimiser.step()
        each.zero_grad()
        sum(LOSSES["mse"](m(x), y["mse"]) for m in modules).backward()
        each.step()
    for row, m in zip(theta, modules, strict=True):
        torch.testing.assert_close(
            row, torch.nn.utils.parameters_to_vector(m.parameters()), rtol=1e-8, atol=1e-9
        )


def test_wrong_tensors_are_named():
    _, net, theta, x, y = problem()
    with pytest.raises(TypeError, match=r"theta must be a PyTorch tensor, got numpy.ndarray"):
        bridge.risk(net, theta.numpy(), x, y["mse"])
    for name, tensors in {
        "x": (x.clone().requires_grad_(), y["mse"]),
        "y": (x, y["mse"].requires_grad_()),
    }.items():
        with pytest.raises(TypeError, match=f"{name} must not require grad: .* theta alone"):
            bridge.risk(net, theta, *tensors)
    with pytest.raises(TypeError, match="theta must be float32 or float64"):
        bridge.risk(net, theta.long(), x, y["mse"].detach())


def test_plain_kernels_say_what_they_do_not_take():
    _, net, theta, x, y = problem()

    def one(t):
        return cbk.risk(net, t[None], x, y["mse"])[0]

    with pytest.raises(TypeError, match=r"theta must not require grad.*detach.*cbokernels\.torch\.risk"):
        cbk.risk(net, theta.clone().requires_grad_(), x, y["mse"])
    with pytest.raises(
        TypeError, match=r"theta must be a tensor with memory of its own.*torch\.func.*\.torch\.risk"
    ):
        torch.func.vmap(one)(theta)
    slope = torch.func.grad(one)
    for call in (lambda: slope(theta[0]), lambda: torch.func.vmap(slope)(theta)):
        with pytest.raises(TypeError, match=r"theta must .*cbokernels\.torch\.risk"):
            call()


def test_packing_a_module_needs_its_scaling():
    """What `pack` says of nn.Linear's weights: under the default scaling they are divided by M once more."""
    given = module(bias=False)
    weights = [p.detach().numpy() for p in given.parameters()]
    x = torch.randn(5, 3)
    expected = given(x).detach().numpy()
    for scaling, factor in (("none", 1), ("mean", 1 / 5)):
        net = cbk.TwoLayer(3, 5, 2, "tanh", scaling=scaling)
        out = cbk.forward(net, net.pack(*weights)[None], x.numpy())[0]
        np.testing.assert_allclose(out, factor * expected, **TOLERANCE["float32"])
