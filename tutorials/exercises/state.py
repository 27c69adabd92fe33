"""Undo what a student's code changes in the process that grades it: the next exercise is alone."""

import builtins
import contextlib
import inspect
import math
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch.nn import functional as F

OWN_PACKAGES = ("nanos2t", "exercises")
# Others whose functions somebody may replace; with those of the first answers are compared.
COMPARING = (builtins, np, torch.Tensor)
SHARED = (*COMPARING, math, torch, F)


@contextlib.contextmanager
def keep_settings() -> Iterator[None]:
    """Set torch's and numpy's settings back at the end of a `with` block."""
    dtype = torch.get_default_dtype()
    device = torch.get_default_device()
    with_gradient = torch.is_grad_enabled()
    errors = np.geterr()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            # None is what it was: a device that is set would slow down all calls.
            torch.set_default_device(None)
        torch.set_grad_enabled(with_gradient)
        np.seterr(**errors)


@contextlib.contextmanager
def keep_functions(owners: Iterable[object]) -> Iterator[Callable[[], None]]:
    """Put functions of modules and classes back at the end of a `with` block, and when called.

    Whoever replaces `np.abs` for all may do so by accident, or to be judged by it.
    """
    functions = {id(owner): (owner, read_functions(owner)) for owner in owners}

    def put_back() -> None:
        for owner, old in functions.values():
            write_functions(owner, old)

    try:
        yield put_back
    finally:
        put_back()


@contextlib.contextmanager
def keep_process() -> Iterator[None]:
    """Set back all that one exercise may change for the next one, at the end of a `with` block."""
    environment = dict(os.environ)
    folder = os.getcwd()
    paths = list(sys.path)
    seeds = (random.getstate(), np.random.get_state(), torch.get_rng_state())
    try:
        with keep_settings(), keep_functions(list_owners()):
            yield
    finally:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        sys.path[:] = paths
        random.setstate(seeds[0])
        np.random.set_state(seeds[1])
        torch.set_rng_state(seeds[2])


def list_owners() -> list[object]:
    """Return the modules and classes whose functions are kept."""
    owners = list(SHARED)
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in OWN_PACKAGES or module is None:
            continue
        owners.append(module)
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == name:
                owners.append(value)
    return owners


def read_functions(owner: object) -> dict[str, object]:
    return {name: value for name, value in vars(owner).items() if callable(value)}


def write_functions(owner: object, functions: dict[str, object]) -> None:
    """Put functions that were replaced into their place again, also those of a base class."""
    for base in getattr(owner, "__mro__", ())[1:]:
        for name in set(vars(owner)) & set(vars(base)):
            if name not in functions and callable(vars(owner)[name]):
                delattr(owner, name)
    for name, function in functions.items():
        if vars(owner).get(name) is not function:
            setattr(owner, name, function)
