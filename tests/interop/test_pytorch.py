"""PyTorch's models as ours and back: the oracle is PyTorch."""

import numpy as np
import pytest

import xpnet
from xpnet.errors import ConfigError, DataError
from xpnet.interop.importing import import_file
from xpnet.interop.pytorch.export import write_torch

torch = pytest.importorskip("torch")
nn = torch.nn

MODULES = {
    "relu": lambda: nn.ReLU(),
    "leaky": lambda: nn.LeakyReLU(0.2),
    "prelu": lambda: nn.PReLU(),
    "prelu-6": lambda: nn.PReLU(6, init=0.1),
    "sigmoid": lambda: nn.Sigmoid(),
    "tanh": lambda: nn.Tanh(),
    "elu": lambda: nn.ELU(0.7),
    "selu": lambda: nn.SELU(),
    "celu": lambda: nn.CELU(0.7),
    "gelu": lambda: nn.GELU(),
    "gelu-tanh": lambda: nn.GELU("tanh"),
    "softplus": lambda: nn.Softplus(),
    "softsign": lambda: nn.Softsign(),
    "hardsigmoid": lambda: nn.Hardsigmoid(),
    "hardswish": lambda: nn.Hardswish(),
    "mish": lambda: nn.Mish(),
    "silu": lambda: nn.SiLU(),
    "softmax": lambda: nn.Softmax(-1),
    "log-softmax": lambda: nn.LogSoftmax(1),
    "batch": lambda: nn.BatchNorm1d(6, eps=1e-3, momentum=0.3),
    "batch-plain": lambda: nn.BatchNorm1d(6, affine=False),
    "layer": lambda: nn.LayerNorm(6, eps=1e-3),
    "layer-plain": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "layer-no-bias": lambda: nn.LayerNorm(6, bias=False),
    "group": lambda: nn.GroupNorm(3, 6),
    "rms": lambda: nn.RMSNorm(6),
    "dropout": lambda: nn.Dropout(0.3),
    "identity": lambda: nn.Identity(),
    "no-bias": lambda: nn.Linear(6, 6, bias=False),
}
X = np.random.default_rng(1).standard_normal((16, 5)).astype(np.float32)


def a_net(name):
    """A network around a module, whose numbers have all been moved from where they begin."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(5, 6), nn.Sequential(MODULES[name](), nn.Linear(6, 3)))
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor)
    return net


def outputs(net, x=X):
    with torch.no_grad():
        return net.eval()(torch.from_numpy(x)).numpy()


def close(a, b, rtol):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max())


@pytest.mark.parametrize("name", MODULES)
def test_a_module_predicts_as_pytorch_and_goes_back(name):
    net = a_net(name)
    trainer = xpnet.from_torch(net)
    close(trainer.predict(X), outputs(net), 2e-6)

    scope = {}
    exec(xpnet.to_torch_source(trainer), scope)
    state = {k: torch.tensor(v) for k, v in xpnet.to_torch_state(trainer).items()}
    scope["net"].load_state_dict(state, strict=True)
    close(outputs(scope["net"]), outputs(net), 1e-6)


@pytest.mark.parametrize("name", [n for n in MODULES if n != "dropout"])
def test_training_goes_on_as_in_pytorch(name):
    net = a_net(name).double()
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((16, 5)), rng.standard_normal((16, 3))
    sgd = xpnet.SGD(lr=0.05, momentum=0.9)
    trainer = xpnet.from_torch(net, optimizer=sgd, batch_size=16, step="portable")
    trainer.fit((x, y), epochs=10)

    rule = torch.optim.SGD(net.train().parameters(), lr=0.05, momentum=0.9)
    for _ in range(10):
        rule.zero_grad()
        nn.functional.mse_loss(net(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        rule.step()
    close(trainer.predict(x), outputs(net, x), 1e-5)
    # What PyTorch does not train has not moved, and running statistics have moved alike.
    for ours in xpnet.to_torch_state(trainer).values():
        same = (t.numpy() for t in net.state_dict().values() if tuple(t.shape) == ours.shape)
        fixed = (np.ones_like(ours), np.zeros_like(ours))
        assert any(np.allclose(ours, t, rtol=1e-5, atol=1e-7) for t in (*same, *fixed))


def test_a_state_dict_goes_into_given_layers(tmp_path):
    net = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    model = [xpnet.Dense(6), xpnet.BatchNorm(), xpnet.ReLU(), xpnet.Dense(3)]
    torch.save(net.state_dict(), tmp_path / "net.pt")
    close(xpnet.from_torch(tmp_path / "net.pt", model).predict(X), outputs(net), 1e-6)
    arrays = {k: v.numpy() for k, v in net.state_dict().items()}
    close(xpnet.from_torch(arrays, model).predict(X), outputs(net), 1e-6)
    trainer = xpnet.from_torch(net)
    code = write_torch(trainer, tmp_path / "net.safetensors")
    again = xpnet.from_torch(tmp_path / "net.safetensors", model)
    np.testing.assert_array_equal(again.predict(X), trainer.predict(X))
    scope = {}
    exec(code, scope)
    close(outputs(scope["net"]), outputs(net), 1e-6)


def test_a_feature_scale_is_a_module_that_the_source_defines():
    trainer = xpnet.Trainer([xpnet.FeatureScale(), xpnet.Dense(3)], backend="numpy")
    trainer.fit((X, np.arange(16) % 3), epochs=2)
    scope = {}
    exec(xpnet.to_torch_source(trainer), scope)
    state = {k: torch.tensor(v) for k, v in xpnet.to_torch_state(trainer).items()}
    scope["net"].load_state_dict(state, strict=True)
    logits = scope["net"](torch.from_numpy(X))
    close(logits.softmax(-1).detach().numpy(), trainer.predict(X), 1e-6)
    assert "net(x).softmax(dim=-1)" in xpnet.to_torch_source(trainer)


def test_half_precision_is_computed_in_float32_and_said():
    for dtype in (torch.float16, torch.bfloat16):
        net = nn.Sequential(nn.Linear(5, 3)).to(dtype)
        trainer = xpnet.from_torch(net)
        close(trainer.predict(X), outputs(net.float()), 1e-6)
        assert trainer.params["0.dense.W"].dtype == np.float32


def test_weights_that_are_tied_are_said():
    one = nn.Linear(5, 5)
    notes = xpnet.from_torch(nn.Sequential(one, nn.ReLU(), one)).notes
    assert notes[0] == "2.weight and 0.weight were one tensor, and are trained apart from here on"


class Own(nn.Module):
    def forward(self, x):
        return x


REFUSED = {
    "conv": (lambda: [nn.Conv1d(1, 1, 1)], r"module '0', a Conv1d, is not one that xpnet has"),
    "own": (lambda: [Own()], r"module '0', a Own, is not one"),
    "softmax": (lambda: [nn.Linear(2, 2), nn.Softmax(0)], r"a Softmax: dim must be 1 or -1; got 0"),
    "average": (lambda: [nn.BatchNorm1d(2, momentum=None)], r"cumulative average"),
    "batch": (lambda: [nn.BatchNorm1d(2, track_running_stats=False)], r"without running stat"),
    "shape": (lambda: [nn.ReLU()], r"give input_shape="),
    "softplus": (lambda: [nn.Softplus(beta=2)], r"a Softplus: beta must be 1; got 2"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_by_name(case):
    modules, message = REFUSED[case]
    with pytest.raises(ConfigError, match=message):
        xpnet.from_torch(nn.Sequential(*modules()))


def test_a_module_with_hooks_is_refused():
    layer = nn.Linear(2, 2)
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ConfigError, match="module '0' has hooks"):
        xpnet.from_torch(nn.Sequential(layer))


def test_a_state_dict_that_does_not_fit_is_refused(tmp_path):
    state = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)).state_dict()
    with pytest.raises(ConfigError, match="does not say what is between its layers"):
        xpnet.from_torch(state)
    with pytest.raises(ConfigError, match=r'Missing key\(s\) in state_dict: "3.weight", "3.bias"'):
        xpnet.from_torch(state, [xpnet.Dense(6), xpnet.ReLU(), xpnet.Dense(3), xpnet.Dense(2)])
    with pytest.raises(ConfigError, match=r'Unexpected key\(s\) in state_dict: "2.weight"'):
        xpnet.from_torch(state, [xpnet.Dense(6)])
    with pytest.raises(ConfigError, match=r"size mismatch for 2\.weight"):
        xpnet.from_torch(state, [xpnet.Dense(6), xpnet.ReLU(), xpnet.Dense(4)])
    torch.save(nn.Linear(2, 2), tmp_path / "net.pt")  # code, which is not run
    with pytest.raises(DataError, match="is not a file of weights alone"):
        xpnet.from_torch(tmp_path / "net.pt", [xpnet.Dense(2)])


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", None])
def test_the_state_dict_is_found_in_what_a_training_saves(key, tmp_path):
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    rule = torch.optim.Adam(net.parameters())
    net(torch.from_numpy(X)).sum().backward()
    rule.step()
    saved = {key: net.state_dict(), "optimizer_state_dict": rule.state_dict(), "epoch": 3}
    torch.save(saved if key else net.state_dict(), tmp_path / "net.pt")
    trainer = xpnet.from_torch(tmp_path / "net.pt", [xpnet.Dense(6), xpnet.ReLU(), xpnet.Dense(3)])
    close(trainer.predict(X), outputs(net), 1e-6)
    if key:
        torch.save({**saved, "ema": net.state_dict()}, tmp_path / "net.pt")
        with pytest.raises(ConfigError, match=f"several state dicts \\('{key}', 'ema'\\)"):
            xpnet.from_torch(tmp_path / "net.pt", [xpnet.Dense(3)])


def test_weights_on_the_device_meta_are_refused():
    with pytest.raises(DataError, match=r"0\.weight is on the device meta, and has no"):
        xpnet.from_torch(nn.Sequential(nn.Linear(2, 2)).to("meta"))


def test_images_that_are_flattened_keep_their_shape_where_it_is_known(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    trainer = xpnet.from_torch(net)
    assert trainer.notes[0].startswith("examples are taken flat, (6,): for others give input_shape")
    x = np.random.default_rng(0).normal(size=(9, 2, 3)).astype(np.float32)
    close(trainer.predict(x.reshape(9, 6)), outputs(net, x), 1e-6)
    like = xpnet.Trainer([xpnet.Flatten(), xpnet.Dense(3)], backend="numpy")
    like.fit((x, np.arange(9) % 3), epochs=1)
    like.save(tmp_path / "like.safetensors")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    import_file(tmp_path / "net.pt", tmp_path / "a.safetensors", like=tmp_path / "like.safetensors")
    found = xpnet.load(tmp_path / "a.safetensors").predict(x)
    close(found, torch.softmax(net(torch.from_numpy(x)), 1).detach().numpy(), 1e-6)


def test_the_command_writes_a_run_and_prints_what_loads_it(tmp_path, capsys):
    from xpnet.cli.main import main

    config = xpnet.load_config("digits", ["epochs=1", "model.hidden=[8]"])
    run = xpnet.train(config, tmp_path / "run")
    capsys.readouterr()  # what the training printed
    weights = tmp_path / "weights.safetensors"
    with pytest.raises(SystemExit) as done:
        main(["export", str(tmp_path / "run"), str(weights), "--format", "torch"])
    assert done.value.code == 0
    scope = {}
    exec(capsys.readouterr().out, scope)
    ours = run.trainer.params
    for name, tensor in scope["net"].state_dict().items():
        if name.endswith("weight") and tensor.ndim == 2:
            W = ours[f"{name.partition('.')[0]}.dense.W"]
            np.testing.assert_array_equal(tensor.numpy(), W.T)
