"""A second device for tests on a machine without one: it computes on the CPU and is as strict as a GPU.

    import pretend_gpu; pretend_gpu.start()         # from here on torch says that there is a GPU

A tensor that goes to "cuda" is wrapped. The wrapper reports the device "meta" (a name that torch's autograd accepts
without a GPU), counts as another device, and holds the numbers. An operation on wrapped and plain tensors together is
the error that a GPU would raise; so are `numpy()` on a wrapped one, and indexing a plain one by a wrapped one. What
this cannot show: speed, memory, 16-bit precision, and kernels that round in another way.
"""

import contextlib
import copy
import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._device import DeviceContext, _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import PreTrainedModel

aten = torch.ops.aten
OTHER = torch.device("meta")
ANY_DEVICE = {aten.copy_.default, aten._to_copy.default}  # both move numbers between devices
DOUBLES = True  # False: there is no float64, as on Apple's GPUs (mps)
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


class OnDevice(torch.Tensor):
    """A tensor of the pretended device; `held` has its numbers, on the CPU."""

    @staticmethod
    def __new__(cls, held):
        wrapped = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=OTHER,
        )  # fmt: skip
        wrapped.held = held
        return wrapped

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            twin = OnDevice(self.held.detach().clone())
            if isinstance(self, torch.nn.Parameter):
                twin = torch.nn.Parameter(twin, requires_grad=self.requires_grad)
            memo[id(self)] = twin
        return memo[id(self)]

    def __repr__(self):
        return f"OnDevice({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """`func` on the held numbers; raises RuntimeError for tensors on two devices, as a GPU does."""
    seen, wrapped = [], {}  # (on the device?, tensor) of every tensor; id of held numbers → their wrapper

    def unwrap(value):
        if isinstance(value, torch.Tensor):
            on = isinstance(value, OnDevice)
            seen.append((on, value))
            if on:
                wrapped[id(value.held)] = value
                return value.held
        elif type(value) in (list, tuple):
            return type(value)([unwrap(part) for part in value])
        return value

    def wrap(value):
        if isinstance(value, torch.Tensor):
            return wrapped.get(id(value)) if id(value) in wrapped else OnDevice(value)
        return type(value)([wrap(part) for part in value]) if type(value) in (list, tuple) else value

    target = None
    if kwargs.get("device") is not None:
        target = torch.device(kwargs["device"]).type != "cpu"
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain_kwargs = [unwrap(value) for value in args], {name: unwrap(kwargs[name]) for name in kwargs}
    both = {on for on, value in seen if on or value.dim() > 0}  # a plain number may be combined with anything
    if len(both) > 1 and func not in ANY_DEVICE and not (func in INDEXING and seen[0][0]):
        shapes = ", ".join(f"{'device' if on else 'cpu'} {tuple(value.shape)}" for on, value in seen)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {shapes}")
    found = func(*plain_args, **plain_kwargs)
    on_device = any(on for on, _ in seen)
    if target is None:
        target = seen[0][0] if func is aten.copy_.default else on_device
    if not DOUBLES and (target or on_device) and getattr(found, "dtype", None) == torch.float64:
        raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {func}")
    return wrap(found) if target else found


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """softmax(QKᵀ / √d) V, written out: torch would look for the kernel of a device that is not there."""
    scores = query @ key.transpose(-2, -1) * (scale or query.shape[-1] ** -0.5)
    if is_causal:
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(scores.shape[-1] - scores.shape[-2] + 1)
        scores = scores.masked_fill(later, float("-inf"))
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf")) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1) @ value


def index(part):
    """A part of an index into a tensor of the device: lists and plain tensors are allowed, and move there."""
    if isinstance(part, list):
        part = torch.tensor(part, dtype=None if part else torch.long)
    return OnDevice(part) if isinstance(part, torch.Tensor) and not isinstance(part, OnDevice) else part


class Compute(TorchDispatchMode):
    """Catches what autograd itself makes on the device, such as the zero in the gradient of a maximum."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if kwargs.get("device") is not None or any(issubclass(kind, OnDevice) for kind in types):
            return compute(func, args, kwargs)
        return func(*args, **kwargs)


class Move(torch.autograd.Function):
    """To the device; the gradient comes back."""

    @staticmethod
    def forward(ctx, plain):
        return OnDevice(plain.detach().clone())

    @staticmethod
    def backward(ctx, gradient):
        return gradient.held if isinstance(gradient, OnDevice) else gradient


def moved(tensor):
    return tensor if isinstance(tensor, OnDevice) else Move.apply(tensor)


def to_device(tensor, *args, device=None, dtype=None, **rest):
    """Tensor.to with a device, a dtype, both, or another tensor."""
    for value in args:
        if isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, torch.Tensor):
            device, dtype = ("cuda" if isinstance(value, OnDevice) else "cpu"), value.dtype
        elif isinstance(value, str | torch.device):
            device = value
    plain = {"dtype": dtype} if dtype is not None else {}
    if device is None:
        return tensor.to(**plain) if plain else tensor
    if torch.device(device).type == "cpu":
        return tensor.to(device="cpu", **plain)
    tensor = moved(tensor)
    return tensor.to(**plain) if plain else tensor


def indexed(access):
    """`access`, Tensor.__getitem__ or __setitem__, with the index on the device if the tensor is there."""

    def on_device(tensor, where, *value):
        if isinstance(tensor, OnDevice):
            where = tree_map(index, where, is_leaf=lambda part: isinstance(part, list))
        return access(tensor, where, *value)

    return on_device


def held(tensor):
    return tensor.held if isinstance(tensor, OnDevice) else tensor


SPECIAL = {
    torch.nn.functional.scaled_dot_product_attention: attention,
    torch.Tensor.cuda: moved,
    torch.Tensor.to: to_device,
    torch.Tensor.pin_memory: lambda tensor: tensor,
    torch.Tensor.tolist: lambda tensor: held(tensor).tolist(),
    torch.Tensor.__format__: lambda tensor, spec: format(held(tensor), spec),
    torch.Tensor.__getitem__: indexed(torch.Tensor.__getitem__),
    torch.Tensor.__setitem__: indexed(torch.Tensor.__setitem__),
}
GRADIENTS = {torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad}


def made_there(func, args, kwargs):
    """What `func` makes, on the device."""
    made = func(*args, **kwargs | {"device": "cpu"})
    if not DOUBLES and made.dtype == torch.float64:
        raise TypeError(f"Cannot convert a MPS Tensor to float64 dtype: {func}")
    return OnDevice(made.detach()).requires_grad_(made.requires_grad) if made.is_leaf else moved(made)


class Redirect(TorchFunctionMode):
    """Sends what asks for "cuda" to the pretended device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in SPECIAL:
            return SPECIAL[func](*args, **kwargs)
        if func in GRADIENTS:
            with Compute():
                return func(*args, **kwargs)
        device = kwargs.get("device")
        if device is None or torch.device(device).type == "cpu":
            return func(*args, **kwargs)
        return made_there(func, args, kwargs)


def start():
    """From here on there is a GPU, or so it seems."""
    torch.cuda.is_available = lambda: True
    torch.cuda.is_bf16_supported = lambda including_emulation=True: False
    torch.autocast = lambda device_type, *args, **kwargs: contextlib.nullcontext()
    plain_init = torch.optim.AdamW.__init__

    def init(self, *args, fused=None, **kwargs):  # its fused kernel is for the devices that torch knows
        plain_init(self, *args, **kwargs)

    torch.optim.AdamW.__init__ = init
    plain_to = PreTrainedModel.to

    def to(self, *args, **kwargs):
        model = plain_to(self, *args, **kwargs)
        model.tie_weights()  # real devices keep the two names of one weight together
        return model

    PreTrainedModel.to = to
    plain_context = DeviceContext.__torch_function__

    def context(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.device.type == "cuda":  # torch.set_default_device("cuda")
            there = func in _device_constructors() and kwargs.get("device") is None
            return made_there(func, args, kwargs) if there else func(*args, **kwargs)
        # inside `with torch.device("meta")` are shapes without numbers, as ever
        with torch._C.DisableTorchFunction() if self.device == OTHER else contextlib.nullcontext():
            return plain_context(self, func, types, args, kwargs)

    DeviceContext.__torch_function__ = context
    Redirect().__enter__()


def test_it_is_as_strict_as_a_gpu():
    """pytest tests/pretend_gpu.py, which changes torch for the rest of the process."""
    start()
    weight = torch.nn.Linear(3, 2).to("cuda")
    x = torch.ones(4, 3)
    try:
        weight(x)
    except RuntimeError as error:
        assert "same device" in str(error)
    else:
        raise AssertionError("a plain tensor went through a layer on the device")
    y = weight(x.to("cuda")).sum()
    y.backward()
    assert isinstance(weight.weight.grad, OnDevice) and weight.weight.grad.tolist() == [[4.0] * 3] * 2
    assert isinstance(y.item(), float) and not isinstance(y.cpu(), OnDevice)
    z = torch.zeros(3, device="cuda", requires_grad=True)
    torch.maximum(z, z * 2).clamp(min=0).sum().backward()
    assert isinstance(z.grad, OnDevice)
    with torch.device("meta"):
        assert not isinstance(torch.empty(3), OnDevice)
    twin = copy.deepcopy(weight)
    torch.optim.AdamW(weight.parameters(), lr=0.1).step()
    assert (twin.weight - weight.weight).abs().min().item() > 0.05
    for wrong in (lambda: y.detach().numpy(), lambda: x[torch.tensor([0], device="cuda")]):
        try:
            wrong()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("a tensor of the device was used like one of the CPU")


def test_the_package_needs_no_float64_on_the_device(monkeypatch):
    """So what it does on a GPU works on Apple's, too, as far as this can show."""
    from prefcourse import lesson, load_world
    from prefcourse.checks.values import difference
    from prefcourse.evaluate import bootstrap, evaluate
    from prefcourse.rlhf.policy_gradient import rloo
    from prefcourse.train import train

    start()
    monkeypatch.setattr(sys.modules[__name__], "DOUBLES", False)
    numbers = torch.ones(3, device="cuda")
    for wrong in (numbers.double, lambda: numbers.to("cpu", torch.float64)):
        with pytest.raises(TypeError, match="float64"):
            wrong()
    lesson.close("device and CPU", numbers, torch.ones(3))
    assert difference(numbers, torch.ones(3), 1e-6) == "" and bootstrap(numbers).value == 1
    world = load_world(device="cuda")
    policy = copy.deepcopy(world.sft)
    train(policy, world.pairs["train"][:8], world.tokenizer, reference=world.sft, steps=2, batch_size=4, progress=False)
    prompts = [row["prompt"] for row in world.prompts["test"][:40]]
    assert evaluate(policy, world, prompts=prompts)["kl"].value >= 0
    rloo(policy, world.gold, prompts, world.tokenizer, reference=world.sft, steps=1, batch_size=8, progress=False)


def test_the_exercises_checks_work_for_a_learner_who_works_on_the_device(tmp_path, monkeypatch):
    """Their inputs stay on the CPU, and an answer may come from the device."""
    from prefcourse import checks

    monkeypatch.setenv("PREFCOURSE_PROGRESS", str(tmp_path / "progress.json"))
    start()
    assert checks.ex06.dpo_loss.judge(lambda *a: checks.ex06.dpo_loss.reference(*a).to("cuda"), 0).passed
    torch.set_default_device("cuda")
    try:
        assert isinstance(torch.zeros(2), OnDevice)
        for number in checks.NUMBERS:
            for check in checks.of_notebook(number).values():
                assert isinstance(check, checks.Choice) or check.judge(check.reference, 0).passed, check.name
        assert not checks.ex06.dpo_loss.judge(lambda *a: torch.zeros(1, device="cuda"), 0).passed
        assert isinstance(torch.zeros(2), OnDevice)
    finally:
        torch.set_default_device(None)
