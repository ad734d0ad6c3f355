"ToyTown beyond its notebook: other processes, interrupted runs, bad places to write to"
import csv, errno, os, signal, subprocess, sys, time
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image

from crossview_nb import pairs, toytown
from crossview_nb.pairs import scene_seed, write_toytown
from crossview_nb.toytown import Town, render_pair, scene_attributes, toytown_scene

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT/'data_samples'


def run(code, **env):
    "Python code in a process of its own, from a folder that is not the repository"
    env = dict(os.environ, PYTHONPATH=os.pathsep.join((str(ROOT), os.environ.get('PYTHONPATH', ''))), **env)
    return subprocess.run([sys.executable, '-c', code], env=env, cwd='/', capture_output=True, text=True)


def pixels(path):
    with Image.open(path) as image: return np.asarray(image)


def test_two_processes_render_the_same():
    code = ("import hashlib, torch; from crossview_nb.toytown import render_pair; p = render_pair(12, 64)\n"
            "print([hashlib.md5(p[k].tobytes()).hexdigest() for k in sorted(p)])")
    one, two = run(code, OMP_NUM_THREADS='1'), run(code, OMP_NUM_THREADS='2')
    assert one.returncode == 0, one.stderr
    assert one.stdout == two.stdout and len(one.stdout) > 100


def test_chunks_do_not_show(monkeypatch):
    whole, chunks = render_pair(5, 32), toytown._chunks
    monkeypatch.setattr(toytown, '_chunks', lambda o, d: chunks(o, d, 100))
    for name, image in render_pair(5, 32).items(): assert np.array_equal(image, whole[name]), name


def test_rendering_leaves_the_number_of_threads_alone():
    threads = torch.get_num_threads()
    render_pair(1, 8)
    assert torch.get_num_threads() == threads


def test_an_empty_town_can_be_rendered():
    scene = toytown_scene(2, houses=0., trees=0., cars=0.)
    assert len(Town(scene).frame) == 0
    pair = render_pair(scene, 16)
    assert not np.isin(pair['aerial_seg'], (70, 107)).any() and pair['aerial_depth'].min() == 60


@pytest.mark.parametrize('size', [1, 8, 32])
@pytest.mark.parametrize('supersample', [1, 2, 3])
def test_shapes(size, supersample):
    pair = render_pair(4, size, supersample)
    for name, image in pair.items():
        depth = name.endswith('depth')
        assert image.shape == (size, size) + (() if depth else (3,)) and image.dtype == (np.float32 if depth else np.uint8)


def test_more_workers_write_the_same(tmp_path):
    one = write_toytown(tmp_path/'one', 4, size=16, workers=1, progress=False)
    code = f"from crossview_nb import pairs; pairs._FEW_PIXELS = 0; pairs.write_toytown({str(tmp_path/'two')!r}, 4, size=16, workers=2, progress=False)"
    done = run(code)      # an unguarded script
    assert done.returncode == 0, done.stderr
    for path in one.iterdir(): assert path.read_bytes() == (tmp_path/'two'/'train'/path.name).read_bytes()


def test_an_interrupted_run_goes_on(tmp_path, monkeypatch):
    write, n = pairs._write_pair, 0

    def interrupted(*args, **kwargs):
        nonlocal n
        n += 1
        if n == 3: raise KeyboardInterrupt
        return write(*args, **kwargs)
    monkeypatch.setattr(pairs, '_write_pair', interrupted)
    with pytest.raises(KeyboardInterrupt): write_toytown(tmp_path, 5, size=16, progress=False)
    folder = tmp_path/'train'
    assert sorted(os.listdir(folder)) == ['000000.png', '000001.png']
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    monkeypatch.setattr(pairs, '_write_pair', write)
    write_toytown(tmp_path, 5, size=16, progress=False)
    assert {p: p.stat().st_mtime_ns for p in before} == before
    rows = list(csv.DictReader((folder/'attributes.csv').open()))
    assert [r['name'] for r in rows] == [f'{i:06d}.png' for i in range(5)]
    for i, row in enumerate(rows):
        assert {k: str(v) for k, v in scene_attributes(scene_seed(i)).items()} == {k: v for k, v in row.items() if k != 'name'}


def test_a_full_disk_leaves_nothing_torn(tmp_path, monkeypatch):
    write_bytes = Path.write_bytes

    def full(path, data):
        if '000002' in path.name:
            write_bytes(path, data[:100])
            raise OSError(errno.ENOSPC, 'No space left on device')
        return write_bytes(path, data)
    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left on device while writing 000002.png.*go on') as error:
        write_toytown(tmp_path, 5, size=16, progress=False)
    assert error.value.errno == errno.ENOSPC
    assert sorted(os.listdir(tmp_path/'train')) == ['000000.png', '000001.png']


def test_a_worker_tells_of_its_full_disk(tmp_path):
    code = ("import resource; from crossview_nb import pairs; pairs._FEW_PIXELS = 0\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
            f"pairs.write_toytown({str(tmp_path)!r}, 4, size=16, workers=2, progress=False)")
    done = run(code)
    assert done.returncode == 1 and 'File too large while writing' in done.stderr, done.stderr
    assert os.listdir(tmp_path/'train') == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path/'taken').write_text('mine')
    for place in (tmp_path/'taken', tmp_path/'taken'/'deeper'):
        with pytest.raises(NotADirectoryError, match='is a file'): write_toytown(place, 1, size=16)
    assert (tmp_path/'taken').read_text() == 'mine' and os.listdir(tmp_path) == ['taken']


@pytest.mark.parametrize('bad, message', [(dict(n=0), 'n is 0'), (dict(n=2.5), 'n is 2.5'), (dict(size=48), 'power of two'), (dict(size=4), 'size is 4'),
                                          (dict(seed=-1), 'seed is -1'), (dict(split='trian'), "split is 'trian'"), (dict(workers=0), 'workers is 0')])
def test_bad_requests(tmp_path, bad, message):
    with pytest.raises(ValueError, match=message): write_toytown(tmp_path, **{**dict(n=1), **bad})
    assert os.listdir(tmp_path) == []


def test_pictures_of_others_are_not_mixed_in(tmp_path):
    folder = write_toytown(tmp_path, 1, size=16, progress=False)
    with pytest.raises(ValueError, match='was rendered with'): write_toytown(tmp_path, 1, size=16, seed=1)
    (folder/'holiday.png').write_bytes(b'no picture')
    with pytest.raises(ValueError, match='is not a ToyTown picture'): write_toytown(tmp_path, 1, size=16)


def test_the_bar_in_a_terminal(tmp_path):
    done = run(f"from crossview_nb.pairs import write_toytown; print(write_toytown({str(tmp_path)!r}, 3, size=16))")
    assert done.returncode == 0 and '3/3' in done.stdout, done.stderr


@pytest.mark.parametrize('name, size, split', [('toytown64', 64, 'train'), ('toytown64', 64, 'val'), ('toytown256', 256, 'val')])
def test_the_samples_are_what_the_command_renders(tmp_path, name, size, split):
    "At most 0.1 % of the pixels may differ, by one level: that is for other machines"
    folder = write_toytown(tmp_path, 2, size=size, split=split, progress=False)
    for path in folder.glob('*.png'):
        difference = abs(pixels(path).astype(int) - pixels(SAMPLES/name/split/path.name))
        assert difference.max() <= 1 and (difference.max(-1) > 0).mean() <= .001


def test_samples_are_small_and_keep_their_splits_apart():
    pictures = list(SAMPLES.glob('*/*/*.png'))
    assert len(pictures) > 100 and sum(p.stat().st_size for p in pictures) < 8e6
    seeds = {s: {r['seed'] for p in SAMPLES.glob(f'*/{s}/attributes.csv') for r in csv.DictReader(p.open())} for s in ('train', 'val')}
    assert not seeds['train'] & seeds['val']


def test_ctrl_c_leaves_whole_pictures_and_no_process(tmp_path):
    code = f"from crossview_nb.pairs import write_toytown; write_toytown({str(tmp_path)!r}, 2000, workers=2, progress=False)"
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    parent = subprocess.Popen([sys.executable, '-c', code], env=env, cwd='/', stderr=subprocess.PIPE, text=True, start_new_session=True)
    folder, deadline = tmp_path/'train', time.time() + 60
    while len(list(folder.glob('*.png'))) < 3 and time.time() < deadline: time.sleep(.1)
    os.killpg(parent.pid, signal.SIGINT)
    assert 'KeyboardInterrupt' in parent.communicate(timeout=30)[1]
    with pytest.raises(ProcessLookupError): os.killpg(parent.pid, 0)      # the workers are gone too
    assert all(p.suffix == '.png' for p in folder.iterdir())
    for path in folder.iterdir(): assert pixels(path).shape == (64, 256, 3)
