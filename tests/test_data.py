"02_data: four-panel files, exact scaling, crops that a resumed run repeats, and every way in which a file can be wrong."
import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb import data
from crossview_nb.data import (CITYSCAPES, CVUSA, PANELS, CrossViewBatch, CrossViewDataset, CrossViewLoader, DataError,
                               combine_pairs, parse_panel_order, read_panels, resize_axis, scale_and_crop, to_classes,
                               to_colours, to_levels, to_values)

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('CROSSVIEW_SHARED', ROOT / '../shared'))
REAL, GOLDEN = SHARED / 'real_samples', SHARED / 'golden' / 'loader'
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f'no real photographs: {REAL} is missing (CROSSVIEW_SHARED)')
needs_golden = pytest.mark.skipif(not (REAL.is_dir() and GOLDEN.is_dir()), reason=f'{GOLDEN} or {REAL} is missing (CROSSVIEW_SHARED)')


def strip(seed=0, side=64, order=PANELS):
    "A four-panel picture of coloured noise; every panel's noise depends on its name."
    panels = {name: np.random.default_rng([seed, k]).integers(0, 256, (side, side, 3), dtype=np.uint8)
              for k, name in enumerate(PANELS)}
    return np.concatenate([panels[name] for name in order], axis=1)


@pytest.fixture
def town(tmp_path):
    "A root with ten training and three validation files of noise."
    for phase, n in (('train', 10), ('val', 3)):
        (tmp_path / phase).mkdir()
        for k in range(n):
            Image.fromarray(strip(k)).save(tmp_path / phase / f'place{k:02}.png')
    (tmp_path / 'train' / 'attributes.csv').write_text('a table beside the pictures is passed over')
    return tmp_path


# --- the authors' own program ----------------------------------------------------------------------------------

RAMP_TO_3 = [[1.25, 2.5, 3.75], [6.25, 7.5, 8.75], [11.25, 12.5, 13.75]]   # Torch7's answer for 0 to 15 in a 4 x 4 square


def resize(picture, target, mix):
    axis, source = resize_axis(picture.shape[-1], target), picture.shape[-1]
    rows, whole = torch.empty(target, source), torch.empty(target, target)
    mix(axis, picture, rows, along=-2)
    mix(axis, rows, whole, along=-1)
    return whole


@pytest.mark.parametrize('mix', [data.mix_in_blocks, data.mix_by_taps])
def test_ramp_as_torch7(mix):
    ramp = torch.arange(16.).view(4, 4)
    even = torch.linspace(0, 3, 6)
    assert torch.allclose(resize(ramp, 6, mix), 4 * even[:, None] + even, atol=2e-6)
    assert torch.allclose(resize(ramp, 3, mix), torch.tensor(RAMP_TO_3), atol=2e-6)


@needs_golden
@pytest.mark.parametrize('mix', ['mix_in_blocks', 'mix_by_taps'])
@pytest.mark.parametrize('task, bar', [(256, 1e-6), (64, 5e-6)])
def test_loader_tensors_equal_the_programs(task, bar, mix, monkeypatch):
    monkeypatch.setattr(data, 'mix_in_blocks', getattr(data, mix))
    arrays = np.load(GOLDEN / f'loader{task}.npz')
    for case in json.loads((GOLDEN / f'loader{task}.json').read_text()):
        panels = read_panels(REAL / 'dayton' / case['file'], bgr=True)[None]
        ours = scale_and_crop(panels, case['loadSize'], case['fineSize'], [(case['h1'], case['w1'])], [case['flip']])
        ours = ours.reshape(case['shape']).numpy()
        if task == 256:
            assert np.abs(ours[:, ::4, ::4] - arrays[case['key'] + '_sub4']).max() < bar
            assert np.abs(ours.mean((1, 2), dtype=np.float64) - arrays[case['key'] + '_chan_mean']).max() < bar
        else:
            assert np.abs(ours - arrays[case['key']]).max() < bar


def test_values_are_rounded_as_the_program_rounds():
    levels = torch.arange(256, dtype=torch.uint8)
    expected = levels.numpy().astype(np.float32) * np.float32(1 / 255) * np.float32(2) - np.float32(1)
    assert (to_values(levels).numpy() == expected).all()
    assert (to_levels(to_values(levels)) == levels).all()
    picture = levels.view(1, 1, 16, 16)
    assert (scale_and_crop(picture, 16, 16, [(0, 0)], [False]) == to_values(picture)).all()


# --- scaling ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('source, load, size', [(256, 286, 256), (256, 72, 64), (64, 72, 64), (64, 64, 64), (100, 36, 32),
                                                (65, 64, 64), (63, 64, 64), (1, 36, 32), (300, 572, 512), (288, 286, 256)])
def test_cropping_before_equals_cropping_after(source, load, size):
    generator = torch.Generator().manual_seed(source)
    panels = torch.randint(0, 256, (3, 2, 3, source, source), dtype=torch.uint8, generator=generator)
    whole = scale_and_crop(panels, load, load, [(0, 0)] * 3, [False] * 3)
    spare = load - size
    offsets, flip = torch.tensor([(0, 0), (spare, spare // 2), (spare // 3, spare)]), torch.tensor([False, True, False])
    crops = scale_and_crop(panels, load, size, offsets, flip)
    for image, crop, (row, column), mirror in zip(whole, crops, offsets.tolist(), flip.tolist()):
        part = image[..., row:row + size, column:column + size]
        assert torch.allclose(crop, part.flip(-1) if mirror else part, atol=1e-6)


@pytest.mark.parametrize('source, target', [(256, 286), (256, 72), (64, 72), (7, 3), (3, 7), (2, 512), (512, 32)])
def test_weights(source, target):
    weights = resize_axis(source, target).weights
    assert weights.shape == (target, source) and (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(target), atol=1e-6)
    assert torch.allclose(weights, weights.flip(0, 1), atol=1e-4)          # left and right are treated alike


def test_enlarging_is_torchs_aligned_corners():
    picture = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ours = scale_and_crop(picture, 72, 72, [(0, 0)], [False])
    theirs = torch.nn.functional.interpolate(picture / 255, size=(72, 72), mode='bilinear', align_corners=True) * 2 - 1
    assert (ours - theirs).abs().max() < 1e-5


def test_scaling_is_exact_under_autocast():
    panels = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    plain = scale_and_crop(panels, 72, 64, [(3, 4)], [True])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert (scale_and_crop(panels, 72, 64, [(3, 4)], [True]) == plain).all()


# --- panels and palettes ------------------------------------------------------------------------------------------

def test_panel_order(tmp_path):
    order = ('aerial_seg', 'street', 'street_seg', 'aerial')
    Image.fromarray(strip(5)).save(tmp_path / 'paper.png')
    Image.fromarray(strip(5, order=order)).save(tmp_path / 'other.png')
    assert (read_panels(tmp_path / 'paper.png') == read_panels(tmp_path / 'other.png', order)).all()
    assert (read_panels(tmp_path / 'other.png', 'aerial_seg, street,street_seg,aerial')[1] ==
            torch.from_numpy(strip(5)[:, 64:128]).permute(2, 0, 1)).all()
    blue_first = read_panels(tmp_path / 'paper.png', bgr=True)
    assert (blue_first.flip(1) == read_panels(tmp_path / 'paper.png')).all()


@pytest.mark.parametrize('order', ['street,aerial', 'street,street,aerial,aerial_seg', '', 'street,aerial,street_seg,air'])
def test_wrong_panel_order(order):
    with pytest.raises(DataError, match='once, from left to right'):
        parse_panel_order(order)


def test_direction(town):
    street, aerial, street_seg, aerial_seg = read_panels(town / 'val' / 'place00.png')
    a2g, g2a = (CrossViewDataset(town, 'val', direction, size=64)[0].panels for direction in ('a2g', 'g2a'))
    assert (a2g == torch.stack([aerial, street, street_seg])).all()
    assert (g2a == torch.stack([street, aerial, aerial_seg])).all()


@pytest.mark.parametrize('palette', [CITYSCAPES, CVUSA])
def test_palettes(palette):
    classes = torch.arange(len(palette)).view(1, 1, -1)
    colours = to_colours(classes, palette)
    assert colours.shape == (1, 1, len(palette), 3) and len(colours.unique(dim=2).view(-1, 3)) == len(palette)
    assert (to_classes(colours, palette) == classes).all()
    generator = torch.Generator().manual_seed(0)
    noisy = (colours + torch.randint(-4, 5, (8, 8, len(palette), 3), generator=generator)).clamp(0, 255).to(torch.uint8)
    assert (to_classes(noisy.numpy(), palette) == classes).all()
    with pytest.raises(DataError, match='palette has 0 to'):
        to_colours([[len(palette)]], palette)
    with pytest.raises(DataError, match='last axis'):
        to_classes(colours.movedim(-1, 0), palette)


@needs_real
@pytest.mark.parametrize('folder, order, n', [('dayton', PANELS, 8), ('dayton_aerial_first', 'aerial,street,aerial_seg,street_seg', 4),
                                              ('cvusa_aerial_first', 'aerial,street,aerial_seg,street_seg', 4)])
@pytest.mark.parametrize('direction', ['a2g', 'g2a'])
def test_real_photographs(folder, order, n, direction):
    dataset = CrossViewDataset(REAL, folder, direction, size=256, panel_order=order, augment=True)
    assert len(dataset) == n
    batch = next(iter(CrossViewLoader(dataset, n)))
    assert batch.source.shape == batch.target.shape == batch.target_seg.shape == (n, 3, 256, 256)
    segmentation = batch.target_seg
    if folder == 'cvusa_aerial_first':
        if direction == 'g2a':
            assert (segmentation < -0.9).all()      # there is none: a black panel stands in
        else:
            classes = to_classes(to_levels(segmentation).movedim(1, -1), CVUSA)
            assert (classes[:, :40] == 0).float().mean() > 0.5       # sky is at the top of a street picture
    elif direction == 'a2g':
        classes = to_classes(to_levels(segmentation).movedim(1, -1))
        sure = (to_colours(classes).float() - to_levels(segmentation).movedim(1, -1).float()).abs().amax(-1) < 30
        assert sure.float().mean() > 0.8             # colours of the palette, but for JPEG and the edges that scaling mixes
        road = (classes[:, -64:] == 0).float().mean()
        assert road > 0.3                            # and road at the bottom


# --- examples, orders, resuming -------------------------------------------------------------------------------------

def test_sizes_of_the_method(town):
    assert CrossViewDataset(town, size=256).load_size == 286 and CrossViewDataset(town, size=64).load_size == 72
    evaluation = CrossViewDataset(town, 'val', size=64)
    assert evaluation.load_size == 64 and evaluation.draw(0) == ((0, 0), False)
    assert CrossViewDataset(town, 'val', size=64, augment=True).load_size == 72
    assert CrossViewDataset(town, 'train', size=64, augment=False).draw(3) == ((0, 0), False)
    batch = next(iter(CrossViewLoader(evaluation, 3, order='serial')))
    assert (batch.source == to_values(torch.stack([read_panels(path)[1] for path in evaluation.files]))).all()


def test_draws(town):
    dataset = CrossViewDataset(town, size=256)
    offsets, flips = zip(*[dataset.draw(index, epoch) for index in range(10) for epoch in range(300)])
    rows, columns = zip(*offsets)
    for drawn in (rows, columns):
        assert min(drawn) == 1 and max(drawn) == 30 and len(set(drawn)) == 30          # 0 never
        assert abs(np.mean(drawn) - 15.5) < 0.6
    assert abs(np.mean(flips) - 0.5) < 0.04
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.06 and abs(np.corrcoef(rows, flips)[0, 1]) < 0.06
    assert dataset.draw(2, 1) == dataset.draw(2, 1)
    assert len({dataset.draw(*key) for key in ((2, 1), (1, 2), (2, 1, 1), (3, 1))}) > 1
    assert not any(CrossViewDataset(town, size=64, flip=False).draw(index)[1] for index in range(10))
    drawn = [[CrossViewDataset(town, seed=seed).draw(index) for index in range(10)] for seed in (0, 1)]
    assert drawn[0] != drawn[1]


def test_one_crop_and_flip_for_all_panels(tmp_path):
    (tmp_path / 'train').mkdir()
    same = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for k in range(6): Image.fromarray(np.concatenate([same] * 4, 1)).save(tmp_path / 'train' / f'{k}.png')
    batch = next(iter(CrossViewLoader(CrossViewDataset(tmp_path, size=64), 6)))
    assert (batch.source == batch.target).all() and (batch.source == batch.target_seg).all()
    assert not (batch.source[0] == batch.source[1]).all()                          # but not for all examples


def test_orders(town):
    dataset = CrossViewDataset(town, size=64)
    serial, shuffled, replacement = (CrossViewLoader(dataset, 4, order=order) for order in ('serial', 'shuffled', 'replacement'))
    assert serial.indices() == list(range(10)) == serial.indices(epoch=7)
    assert sorted(shuffled.indices(0)) == list(range(10)) and shuffled.indices(0) != shuffled.indices(1)
    assert shuffled.indices(3) == CrossViewLoader(dataset, 2, seed=0).indices(3) != CrossViewLoader(dataset, 2, seed=1).indices(3)
    drawn = np.bincount(sum((replacement.indices(epoch) for epoch in range(400)), []), minlength=10)
    assert drawn.sum() == 4000 and drawn.min() > 320 and drawn.max() < 480
    assert any(len(set(replacement.indices(epoch))) < 10 for epoch in range(5))
    assert len(CrossViewLoader(dataset, 4, limit=6).indices()) == 6
    assert len({tuple(sorted(CrossViewLoader(dataset, 4, limit=6).indices(epoch))) for epoch in range(9)}) > 1


@pytest.mark.parametrize('limit, drop_last, sizes', [(None, False, [4, 4, 2]), (None, True, [4, 4]), (6, False, [4, 2]),
                                                     (6, True, [4]), (99, False, [4, 4, 2]), (3, True, [])])
def test_batch_counts(town, limit, drop_last, sizes):
    loader = CrossViewLoader(CrossViewDataset(town, size=64), 4, limit=limit, drop_last=drop_last)
    assert [len(batch) for batch in loader] == sizes and len(loader) == len(sizes)


def same(one, other):
    return one.names == other.names and all((getattr(one, k) == getattr(other, k)).all() for k in ('source', 'target', 'target_seg'))


@pytest.mark.parametrize('order', data.ORDERS)
def test_an_epoch_is_the_same_whoever_reads_it_and_wherever_it_begins(town, order):
    dataset = CrossViewDataset(town, size=64, seed=3)
    epochs = {}
    for workers in (0, 2):
        loader = CrossViewLoader(dataset, 3, order=order, workers=workers, seed=3)
        loader.set_epoch(5)
        epochs[workers] = list(loader)
    assert len(epochs[0]) == 4 and all(map(same, epochs[0], epochs[2]))
    for start in (1, 3, 4):
        loader.set_epoch(5, start_batch=start)
        rest = list(loader)
        assert len(rest) == 4 - start and all(map(same, epochs[0][start:], rest))
    loader.set_epoch(6)
    assert not all(map(same, epochs[0], loader))


def test_a_file_drawn_twice_is_cropped_anew(town):
    dataset = CrossViewDataset(town, size=256)
    loader = CrossViewLoader(dataset, 10, order='replacement')
    indices = loader.indices()
    twice = next(index for index in indices if indices.count(index) > 1)
    batch = next(iter(loader))
    first, second = [k for k, index in enumerate(indices) if index == twice][:2]
    assert batch.names[first] == batch.names[second] and not (batch.source[first] == batch.source[second]).all()


def test_reading_leaves_torchs_random_state_alone(town):
    before = torch.get_rng_state()
    list(CrossViewLoader(CrossViewDataset(town, size=64), 4))
    list(CrossViewLoader(CrossViewDataset(town, size=64), 4, workers=1))
    assert (torch.get_rng_state() == before).all()


def test_batch(town):
    batch = next(iter(CrossViewLoader(CrossViewDataset(town, size=64), 4)))
    double = batch.to(torch.float64)
    assert isinstance(double, CrossViewBatch) and double.source.dtype == double.target_seg.dtype == torch.float64
    assert len(batch) == 4 and double.names == batch.names and batch.source.dtype == torch.float32
    assert all(getattr(batch, k).is_contiguous() for k in ('source', 'target', 'target_seg'))
    assert batch.source.min() >= -1 and batch.source.max() <= 1


# --- bad input -----------------------------------------------------------------------------------------------------

def fails(match, call, *args, **options):
    with pytest.raises(DataError, match=match) as caught: call(*args, **options)
    return str(caught.value)


def test_bad_options(town):
    fails("direction 'a2b'.*a2g.*g2a", CrossViewDataset, town, direction='a2b')
    for size in (0, 16, 48, 100, 1024): fails(f'size {size}.*power of two from 32 to 512', CrossViewDataset, town, size=size)
    fails('load size 60 with size 64.*at least 64', CrossViewDataset, town, size=64, load_size=60)
    fails('load size 72 with size 64', CrossViewDataset, town, 'val', size=64, load_size=72)
    dataset = CrossViewDataset(town, size=64)
    fails("order 'random'.*shuffled, serial, replacement", CrossViewLoader, dataset, 4, order='random')
    fails('batch size 0', CrossViewLoader, dataset, 0)
    fails('limit 0', CrossViewLoader, dataset, 4, limit=0)
    fails('found -1', CrossViewDataset(town, seed=-1).draw, 0)


def test_bad_folders(town):
    assert 'train, val' in fails('tset.*does not exist', CrossViewDataset, town, 'tset')
    (town / 'empty').mkdir()
    fails('empty.*holds no picture', CrossViewDataset, town, 'empty')
    (town / 'notes').write_text('a file')
    fails('notes.*is a file', CrossViewDataset, town, 'notes')
    fails('nowhere', CrossViewDataset, town / 'nowhere')
    Image.fromarray(strip()).save(town / 'val' / 'place00.jpg')
    fails('place00.jpg and place00.png', CrossViewDataset, town, 'val')


def truncated_jpeg(path):
    Image.fromarray(strip()).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


def truncated_png(path):
    Image.fromarray(strip()).save(path)
    path.write_bytes(path.read_bytes()[:-2000])


BAD_FILES = {
    'text.png': (lambda path: path.write_text('no picture at all'), r'is no image.*17 bytes'),
    'nothing.jpg': (lambda path: path.write_bytes(b''), r'is no image.*0 bytes'),
    'cut.jpg': (truncated_jpeg, 'truncated or damaged'),
    'cut.png': (truncated_png, 'truncated or damaged'),
    'three.png': (lambda path: Image.fromarray(strip()[:, :192]).save(path), '192 x 64 pixels; four equal square.*256 x 64'),
    'deep.png': (lambda path: Image.fromarray(np.zeros((64, 256), np.uint16)).save(path), 'I;16'),
}


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('name', BAD_FILES)
def test_bad_files(town, name, workers):
    write, match = BAD_FILES[name]
    write(town / 'train' / name)
    message = fails(match, list, CrossViewLoader(CrossViewDataset(town, size=64), 4, workers=workers))
    assert message.startswith(str(town / 'train' / name)) and 'Traceback' not in message


@pytest.mark.parametrize('workers', [0, 1])
def test_panels_of_two_sizes(town, workers):
    Image.fromarray(strip(side=32)).save(town / 'train' / 'small.png')
    fails('has panels of (32|64) pixels, but', list, CrossViewLoader(CrossViewDataset(town, size=64), 11, workers=workers))


def test_grey_palette_and_alpha_files_are_read(town):
    for mode in ('L', 'P', 'RGBA'):
        Image.fromarray(strip()).convert(mode).save(town / 'val' / f'{mode}.png')
        assert read_panels(town / 'val' / f'{mode}.png').shape == (4, 3, 64, 64)


# --- combining ------------------------------------------------------------------------------------------------------

@pytest.fixture
def singles(tmp_path):
    "Folders of single pictures: photographs 80 x 60 and 50 x 50, segmentations of the same sizes in two colours."
    for panel, (height, width) in dict(street=(60, 80), aerial=(50, 50), street_seg=(60, 80), aerial_seg=(50, 50)).items():
        (tmp_path / panel).mkdir()
        for k in range(3):
            picture = np.random.default_rng([k, len(panel)]).integers(0, 256, (height, width, 3), dtype=np.uint8)
            if panel.endswith('seg'): picture = np.where(picture[..., :1] > 99, (128, 64, 128), (70, 130, 180)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / panel / (f'b.{k}.png' if k or panel.endswith('seg') else f'b.{k}.jpg'))
    return tmp_path


def combine(folder, output='out', **changes):
    folders = {panel: folder / panel for panel in PANELS} | changes
    return combine_pairs(*folders.values(), folder / output, size=64)


def test_combine(singles):
    assert combine(singles) == 3
    assert sorted(path.name for path in (singles / 'out').iterdir()) == ['b.0.png', 'b.1.png', 'b.2.png']
    dataset = CrossViewDataset(singles, 'out', size=64)
    assert len(dataset) == 3 and dataset.names[0] == 'b.0'
    street, aerial, street_seg, aerial_seg = read_panels(singles / 'out' / 'b.1.png')
    allowed = {(128, 64, 128), (70, 130, 180)}
    for segmentation in (street_seg, aerial_seg):        # no new colours in a map
        assert {tuple(colour) for colour in segmentation.flatten(1).T.tolist()} == allowed
    reference = Image.open(singles / 'aerial' / 'b.1.png').resize((64, 64), Image.Resampling.BICUBIC)
    assert (aerial.movedim(0, -1).numpy() == np.asarray(reference)).all()


def test_combine_without_aerial_segmentations(singles):
    assert combine(singles, aerial_seg=None) == 3
    assert (read_panels(singles / 'out' / 'b.0.png')[3] == 0).all()


def test_combine_refuses(singles):
    (singles / 'file').write_text('')
    fails('file.*is a file', combine, singles, 'file')
    (singles / 'aerial' / 'b.1.png').rename(singles / 'aerial' / 'c.png')
    fails(r'street has no street picture for 1 of 4 places \(c\); .*aerial has no aerial picture for 1 of 4 places \(b.1\)', combine, singles)
    (singles / 'aerial' / 'c.png').rename(singles / 'aerial' / 'b.1.png')
    Image.new('RGB', (80, 61)).save(singles / 'street_seg' / 'b.2.png')
    fails(r'street/b.2.png is 80 x 60 pixels, its segmentation .*street_seg/b.2.png 80 x 61', combine, singles)
    (singles / 'street_seg' / 'b.2.png').write_text('no picture')
    fails('street_seg/b.2.png: is no image', combine, singles)
    fails('nowhere.*does not exist', combine, singles, street=singles / 'nowhere')
    assert not (singles / 'out').exists()


def test_a_damaged_picture_leaves_whole_files_only(singles):
    path = singles / 'street' / 'b.2.png'
    path.write_bytes(path.read_bytes()[:-3000])
    fails('street/b.2.png: is truncated', combine, singles)
    assert sorted(path.name for path in (singles / 'out').iterdir()) == ['b.0.png', 'b.1.png']
    for path in (singles / 'out').iterdir(): read_panels(path)


def test_full_disk(singles, monkeypatch):
    save = Image.Image.save
    def half(picture, path, *args, **options):
        save(picture, path, *args, **options)
        if 'b.1' in str(path):
            os.truncate(path, 1000)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Image.Image, 'save', half)
    fails('b.1.png: could not be written .No space left on device.; make room', combine, singles)
    assert [path.name for path in (singles / 'out').iterdir()] == ['b.0.png']


# --- processes -----------------------------------------------------------------------------------------------------

INTERRUPTED = '''
import multiprocessing, sys, time
from crossview_nb.data import CrossViewDataset, CrossViewLoader
loader = CrossViewLoader(CrossViewDataset(sys.argv[1], size=64), 1, workers=2)
try:
    for epoch in range(10 ** 6):
        loader.set_epoch(epoch)
        for batch in loader:
            if epoch == 0: print('reading', flush=True)
            time.sleep(0.05)
except KeyboardInterrupt:
    del batch
    print('stopped', flush=True)
loader.set_epoch(0)
print(sum(map(len, loader)), 'read afterwards', len(multiprocessing.active_children()), 'at work', end=' ')
del loader
print(len(multiprocessing.active_children()), 'left')
'''


def test_ctrl_c_ends_the_loop_and_not_the_workers_manners(town):
    process = subprocess.Popen([sys.executable, '-c', INTERRUPTED, str(town)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               start_new_session=True, env=os.environ | {'PYTHONPATH': str(ROOT)})
    assert process.stdout.readline() == 'reading\n'
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)        # as a terminal does: to every process of the group
    output, errors = process.communicate(timeout=60)
    assert output.endswith('stopped\n10 read afterwards 2 at work 0 left\n') and errors == '', errors


def test_light_import():
    code = ("import sys, crossview_nb.data; "
            "print([m for m in ('matplotlib', 'fastprogress', 'torchvision', 'accelerate', 'nbdev', 'IPython') if m in sys.modules])")
    output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                            env=os.environ | {'PYTHONPATH': str(ROOT)}).stdout
    assert output.strip() == '[]'


def test_sample_data_says_what_there_is():
    with pytest.raises(DataError, match='there is no such sample'):
        data.sample_data('nothing-of-the-kind')
