"The package as others get it: an sdist, a wheel from that sdist, installed where no checkout is near."
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
config = ConfigParser(delimiters=['='])
config.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = config['DEFAULT']


@pytest.fixture
def elsewhere(installed, python, tmp_path):
    "Run a program that sees the installed wheel, and no checkout"
    return lambda program: python(program, cwd=tmp_path, PYTHONPATH=str(installed))


def test_sdist_has_what_a_wheel_needs(sdist):
    with tarfile.open(sdist) as archive: names = {name.partition('/')[2] for name in archive.getnames()}
    assert {'settings.ini', 'setup.py', 'pyproject.toml', 'LICENSE', 'README.md', 'crossview_nb/all.py'} <= names


def test_wheel_has_every_sample_and_no_more(wheel):
    with zipfile.ZipFile(wheel) as archive: inside = set(archive.namelist())
    listed = subprocess.run(['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard', 'data_samples', 'crossview_nb'],
                            cwd=ROOT, capture_output=True, text=True).stdout.split('\0')
    wanted = {name.replace('data_samples/', 'crossview_nb/data_samples/', 1) for name in listed if name and (ROOT/name).is_file()}
    assert {name for name in inside if '.dist-info/' not in name} == wanted
    assert any(name.endswith('/LICENSE') for name in inside)


def test_version_and_command(elsewhere):
    out = elsewhere('''
import crossview_nb, importlib.metadata as m
d = m.distribution('crossview_nb')
print(crossview_nb.__file__)
print(crossview_nb.__version__, d.version, d.metadata['Requires-Python'], d.metadata['License'])
for e in d.entry_points: print(e.group, e.name, e.value)
for extra in d.metadata.get_all('Provides-Extra'): print('extra', extra)
e.load()''').splitlines()
    assert str(ROOT) not in out[0], 'the checkout was imported instead of the wheel'
    assert out[1] == f"{SETTINGS['version']} {SETTINGS['version']} >={SETTINGS['min_python']} Apache-2.0"
    assert out[2] == 'console_scripts crossview crossview_nb.cli:main'
    extras = {key.removesuffix('_requirements') for key in SETTINGS if key.endswith('_requirements')}
    assert {f'extra {name}' for name in extras} == set(out[3:]) and {'notebooks', 'dev'} <= extras


def test_plain_install_asks_for_no_notebook_tool():
    names = [name.split('>')[0].split('=')[0] for name in SETTINGS['requirements'].split()]
    assert not {'nbdev', 'jupyterlab', 'ipywidgets', 'execnb', 'ipykernel'} & set(names)
    assert not [name for name in SETTINGS['requirements'].split() if name.startswith('torch') and '==' in name], "Colab has its own torch"


def test_samples_are_found(elsewhere):
    out = elsewhere('''
from importlib.resources import files
samples = files('crossview_nb.data_samples')
print(samples.joinpath('README.md').read_text(encoding='utf-8')[:2])
from crossview_nb.all import CrossViewDataset, sample_data
for size, phases in ((64, ('train', 'val')), (256, ('train', 'val'))):
    for phase in phases: print(size, phase, len(CrossViewDataset(sample_data(f'toytown{size}'), phase, size=size)) > 0)''')
    assert out.split() == '# 64 train True 64 val True 256 train True 256 val True'.split()


def test_front_door_is_light(elsewhere):
    "Neither the door nor what lies behind it, toy town to results, loads what only some visitors need"
    heavy = ('nbdev', 'execnb', 'jupyterlab', 'ipywidgets', 'IPython', 'matplotlib', 'torchmetrics', 'accelerate', 'fastprogress',
             'torchvision', 'torchfile')
    out = elsewhere(f'''
import sys
import crossview_nb.all as everything
print([m for m in {heavy!r} + ('torch',) if m in sys.modules])
for name in ('toytown', 'data', 'generators', 'discriminators', 'regime', 'pix2pix', 'fork', 'seq', 'training', 'results', 'cli'):
    __import__('crossview_nb.' + name)
    print(name, [m for m in {heavy!r} if m in sys.modules])
for name in dir(everything): getattr(everything, name)
print('all', [m for m in {heavy!r} if m in sys.modules])''').splitlines()
    assert out[0] == '[]', f'crossview_nb.all loads {out[0]}'
    assert not [line for line in out[1:] if not line.endswith('[]')], out
