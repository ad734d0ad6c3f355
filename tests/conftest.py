"What all tests share: the repository, its tools, and where data that is not ours to ship may lie."
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='session')
def root():
    "The repository"
    return ROOT


@pytest.fixture(scope='session')
def shared():
    "The folder with real photographs and the authors' recorded numbers; a test that needs it is skipped without it"
    folder = Path(os.environ.get('CROSSVIEW_SHARED', ROOT/'../shared')).resolve()
    if not folder.is_dir(): pytest.skip(f'{folder} is missing (CROSSVIEW_SHARED)')
    return folder


@pytest.fixture(scope='session')
def python():
    "Run a program text, or arguments, in a Python of its own; its output"
    def run(*args, cwd=None, timeout=600, **env):
        if len(args) == 1: args = ('-c', *args)
        done = subprocess.run([sys.executable, *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=timeout,
                              stdin=subprocess.DEVNULL, env=os.environ | env)
        assert done.returncode == 0, f'{args} ended with {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}'
        return done.stdout
    return run
