"evaluate, compare and what they write: against literal definitions, against torchmetrics, over folders and generators, and with bad input"
import csv
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb import families
from crossview_nb.data import CITYSCAPES, CVUSA, CrossViewDataset, CrossViewLoader, DataError, sample_data, to_classes, to_colours, to_levels
from crossview_nb.comparison import Difference, compare, find_results, write_evaluation
from crossview_nb.evaluation import evaluate
from crossview_nb.families import Measure, Pictures
from crossview_nb.metrics import inception_score, kl_to_data, label_accuracy, mean_iou, measure
from crossview_nb.results import Imaginer, load_generator, write_results
from crossview_nb.training import RegimeConfig, TrainingConfig, build_regime


class Judge:
    "A classifier without training: colours of an 8 x 8 thumbnail"
    def __init__(self, classes=8):
        self.weights = 4*torch.randn(48, classes, generator=torch.Generator().manual_seed(0))

    def features(self, images): return torch.nn.functional.adaptive_max_pool2d(images, 4).flatten(1)

    def __call__(self, images): return (2*(self.features(images) - .5) @ self.weights).softmax(1)


def darkness(images): return (images.mean(1)*18.9).long()


def places(n=24, size=16, seed=0, noise=40, maps=True, batch=5):
    "Pictures of n made-up places, and imagined ones that are noisy"
    random = np.random.default_rng(seed)
    target = random.integers(0, 256, (n, 3, 4, 4)).repeat(size//4, 2).repeat(size//4, 3)
    output = (target + noise*np.random.default_rng(seed + noise + 1).standard_normal(target.shape)).clip(0, 255)
    classes = torch.tensor(random.integers(0, 4, (n, 4, 4)).repeat(size//4, 1).repeat(size//4, 2))
    colours = to_colours(classes).permute(0, 3, 1, 2)
    kinds = [torch.tensor(target).byte(), torch.tensor(output).byte()] + [colours, colours.roll(1, 3)]*maps
    for start in range(0, n, batch):
        part = slice(start, min(n, start + batch))
        yield Pictures([f'{k:04d}' for k in range(n)][part], *(kind[part] for kind in kinds))


def joined(batches):
    batches = list(batches)
    return Pictures(sum((b.names for b in batches), []), *(torch.cat([getattr(b, kind) for b in batches]) for kind in Pictures._fields[1:]))


def quick(source, **options):
    return evaluate(source, **dict(classifiers={'toy': Judge()}, segmenter=darkness, samples=200, device='cpu', progress=False) | options)


def write_folder(folder, pictures):
    for kind in Pictures._fields[1:]:
        if (images := getattr(pictures, kind)) is None: continue
        (folder/'images'/kind).mkdir(parents=True)
        for name, image in zip(pictures.names, images): Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder/'images'/kind/f'{name}.png')
    return folder


# --- the figures -------------------------------------------------------------------------------------------------

def test_figures_are_those_of_the_definitions():
    whole, found = joined(places()), quick(places())
    real, imagined = whole.target.float()/255, whole.output.float()/255
    for mode in ('paper', 'standard'):
        for key, values in measure(real.double(), imagined.double(), mode).items():
            name = 'sharpness difference' if key == 'SD' else key
            assert abs(found[mode, name].value - values.mean().item()) < 1e-4*values.mean().abs().item()
    judge = Judge()
    p_real, p_imagined = judge(real).double(), judge(imagined).double()
    for top, name in ((None, 'all classes'), (1, 'top-1'), (5, 'top-5')):
        assert abs(found['toy', f'Inception score, {name}'].value - inception_score(p_imagined, top).item()) < 1e-5
    score, spread = kl_to_data(p_imagined, p_real)
    assert abs(found['toy', 'KL(model || data)'].value/score.item() - 1) < 1e-5
    assert abs(found['toy', 'spread of KL over images'].value - spread.item()) < 1e-4
    for top in (1, 5):
        for sure in (False, True):
            name = f'accuracy top-{top}' + (', confident' if sure else '')
            assert abs(found['toy', name].value - 100*label_accuracy(p_imagined, p_real, top, sure).item()) < 1e-9, name
    snapped = [to_classes(maps.permute(0, 2, 3, 1)) for maps in (whole.seg_target, whole.seg_output)]
    for group, pair in {'imagined segmentation': snapped, "agreement of the model's two heads": [snapped[1], darkness(imagined)],
                        'semantic consistency of the imagined image': [snapped[0], darkness(imagined)]}.items():
        assert abs(found[group, 'mIoU'].value - mean_iou(*pair, 19).item()) < 1e-6, group
        assert abs(found[group, 'pixel accuracy'].value - 100*(pair[0] == pair[1]).double().mean().item()) < 1e-9


def test_batches_do_not_matter():
    one, other = quick(places(batch=24)), quick(places(batch=7))
    assert one.fingerprint == other.fingerprint and one.figures.keys() == other.figures.keys()
    for key, figure in one.figures.items():
        for what in ('value', 'low', 'high'): assert np.isclose(getattr(figure, what), getattr(other[key], what), rtol=1e-4, atol=1e-5, equal_nan=True), (key, what)


def test_ms_ssim_is_that_of_torchmetrics():
    functional = pytest.importorskip('torchmetrics.functional.image')
    found, whole = quick(places(3, 176)), joined(places(3, 176))
    theirs = functional.multiscale_structural_similarity_index_measure(whole.output/255., whole.target/255., data_range=1.)
    assert abs(found['standard', 'MS-SSIM'].value - theirs.item()) < 1e-5
    assert ('standard', 'MS-SSIM') in quick(places(3)).gaps


@pytest.mark.parametrize('palette', [CITYSCAPES, CVUSA])
def test_snapping_is_that_of_the_data(palette):
    colours = torch.randint(0, 256, (3, 3, 40, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    colours[0, :, 0, :] = torch.tensor(list(palette.values())).repeat(30, 1)[:30].T   # exact, and halfway between two
    colours[0, :, 1, :] = (colours[0, :, 0, :].int() + colours[0, :, 0, :].int().roll(1, 1)).div(2, rounding_mode='floor').byte()
    colours[1, 0], colours[1, 1], colours[1, 2] = 128, 0, 128
    assert torch.equal(families.snapped(colours, palette), to_classes(colours.permute(0, 2, 3, 1), palette))


# --- weights that are not shipped --------------------------------------------------------------------------------

@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    "PyTorch's cache is an empty folder, and nothing may be downloaded"
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path/'hub'))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', lambda *args, **options: pytest.fail('a download was tried'))
    return tmp_path/'hub'/'checkpoints'


def test_without_weights_the_table_says_so(no_cache):
    found = quick(places())
    for key in ('LPIPS', 'FID', 'KID'): assert found.gaps['standard', key]
    assert 'not downloaded unasked' in found.gaps['standard', 'LPIPS'] and 'not downloaded unasked' in found.table()
    assert {gap['name'] for gap in json.loads(found.to_json())['gaps']} >= {'LPIPS', 'FID', 'KID', 'MS-SSIM'}


def test_lpips_with_weights(no_cache, tmp_path, monkeypatch):
    pytest.importorskip('torchmetrics')
    import torchvision
    from torchmetrics.functional.image.lpips import _LPIPS
    torch.manual_seed(0)
    network = torchvision.models.alexnet(weights=None)
    torch.save(network.state_dict(), tmp_path/'some.pth')
    with pytest.raises(DataError, match='checksum begins with'): quick(places(), lpips_weights=tmp_path/'some.pth')
    with pytest.raises(FileNotFoundError, match='no such file'): quick(places(), lpips_weights=tmp_path/'none.pth')
    no_cache.mkdir(parents=True)
    (no_cache/'alexnet-owt-7be5be79.pth').write_bytes(b'half a download')
    assert 'checksum begins with' in quick(places()).gaps['standard', 'LPIPS']
    checksum = subprocess.run(['sha256sum', tmp_path/'some.pth'], capture_output=True, text=True).stdout[:8]
    if not checksum: pytest.skip('no sha256sum here')
    monkeypatch.setitem(families.WEIGHTS, 'LPIPS', (f'alexnet-{checksum}.pth', ''))
    found, whole = quick(places(size=64), lpips_weights=tmp_path/'some.pth'), joined(places(size=64))
    theirs = _LPIPS(net='alex', pnet_rand=True).eval()
    theirs.net.slice1[0].weight.data.copy_(network.features[0].weight)
    with monkeypatch.context() as patched:
        patched.setattr('torchmetrics.functional.image.lpips._get_tv_model_features', lambda *args, **options: network.features)
        theirs = _LPIPS(net='alex', pnet_rand=True).eval()
    expected = theirs(whole.output/255., whole.target/255., normalize=True).mean().item()
    assert abs(found['standard', 'LPIPS'].value - expected) < 1e-5 and found['standard', 'LPIPS'].better == 'lower'


# --- how sure ----------------------------------------------------------------------------------------------------

def test_no_digit_too_many_in_a_table():
    for figure in quick(places(200)).figures.values():
        if math.isnan(figure.value): continue
        text = figure.texts()[0].split()[0]
        if figure.high > figure.low + 1e-5*abs(figure.value):
            last = 10.**-len(text.partition('.')[2]) if '.' in text else 1
            assert last <= figure.high - figure.low and 20*last >= (figure.high - figure.low)*.99 or '.' not in text, figure


def test_never_missed_is_not_certain():
    found = quick((Pictures(p.names, p.target, p.target) for p in places(60)))
    figure = found['toy', 'accuracy top-1']
    assert (figure.value, figure.low, figure.high) == (100, 95, 100)
    assert found['toy', 'KL(model || data)'].value == 1
    assert 'left out' in found['standard', 'PSNR'].note and found['standard', 'PSNR'].images == 0 and math.isnan(found['standard', 'PSNR'].value)
    assert abs(found['paper', 'PSNR'].value - 88.1308) < 1e-3


def test_compare():
    better, worse = quick(places(80, noise=20)), quick(places(80, noise=60))
    found = compare(better, worse, ('fine', 'coarse'))
    for key in (('paper', 'PSNR'), ('standard', 'SSIM')):
        assert found[key].verdict == 'first' and found[key].p < .001 and found[key].high < 0
        assert abs(found[key].value - (worse[key].value - better[key].value)) < 1e-12
    assert found['toy', 'KL(model || data)'].verdict == 'first' and math.isnan(found['toy', 'KL(model || data)'].p)
    for _ in zip(better.rows(), better.rows(), strict=True): pass
    itself = compare(better, better)
    assert all(d.value == int(d.log) and d.verdict == 'undecided' and (math.isnan(d.p) or d.p == 1) for d in itself.differences.values())
    assert 'fine' in str(found) and json.loads(found.to_json())['first'] == 'fine'
    # places are easy or hard for both models: what both share cancels out of the paired interval
    both = better['paper', 'PSNR']
    assert found['paper', 'PSNR'].high - found['paper', 'PSNR'].low < 2*(both.high - both.low)


def test_rounding_makes_no_winner():
    first = Difference('toy', 'Inception score', 1., 1. + 5e-9, 1. + 5e-9, 1. + 4e-9, 1. + 6e-9, 'higher', '', 32, math.nan, True)
    assert first.verdict == 'undecided'
    assert Difference('toy', 'Inception score', 1., 1.01, 1.01, 1.005, 1.015, 'higher', '', 32, math.nan, True).verdict == 'second'


def test_a_family_of_your_own():
    class Tint:
        gaps = {}
        def look(self, view): return {'own/tint': (view.image('output') - view.image('target')).mean((1, 2, 3)).abs()}
        def measures(self): return [Measure('own', 'tint', lambda means: means('own/tint'), 'lower', column='own/tint')]
    whole = joined(places())
    found = quick(places(), more=[Tint()])
    expected = (whole.output.float() - whole.target.float()).mean((1, 2, 3)).abs()/255
    assert abs(found['own', 'tint'].value - expected.mean().item()) < 1e-6 and not math.isnan(found['own', 'tint'].low)
    assert abs(float(next(found.rows())['own/tint']) - expected[0].item()) < 1e-6
    assert not math.isnan(compare(found, found)['own', 'tint'].p)


def test_compare_refuses_other_places():
    one = quick(places(20))
    with pytest.raises(DataError, match='only the first has'): compare(one, quick(places(19)))
    with pytest.raises(ValueError, match='resample both alike'): compare(one, quick(places(20), seed=1))


# --- folders and generators --------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run without training, as `crossview train` would leave it"
    from crossview_nb.training import Trainer, build_loader
    here = tmp_path_factory.mktemp('run')
    for name, seed in (('one', 0), ('two', 1)):
        config = TrainingConfig(name=name, regime='fork', data_root=str(sample_data('toytown64')), batch_size=8, epochs=1, workers=0, limit=16, seed=seed,
                                checkpoints=str(here/'checkpoints'), device='cpu', networks=RegimeConfig(size=64, ngf=4, ndf=4))
        trainer = Trainer(build_regime(config), build_loader(config))
        trainer.fit(1)
        trainer.save(config, 'epoch-0001')
    return here


def test_folder_and_generator_agree(run):
    for how in (dict(), dict(norm='batch', dropout=True)):
        folder = write_results('one', str(sample_data('toytown64')), how_many=13, checkpoints=str(run/'checkpoints'), results=str(run/f'results{len(how)}'), device='cpu', **how)
        loader = CrossViewLoader(CrossViewDataset(sample_data('toytown64'), 'val', size=64), 10, 'serial', 13)
        one, other = quick(folder), quick(load_generator(run/'checkpoints'/'one'), loader=loader, **how)
        assert one.fingerprint == other.fingerprint
        for key, figure in one.figures.items(): assert np.isclose(figure.value, other[key].value, rtol=1e-5, atol=1e-6, equal_nan=True), key
        assert other.settings['norm'] == how.get('norm', 'running') and other.settings['places'] == 13


def test_norm_makes_a_difference(run):
    loader = CrossViewLoader(CrossViewDataset(sample_data('toytown64'), 'val', size=64), 10, 'serial', 13)
    generator = load_generator(run/'checkpoints'/'one')
    assert quick(generator, loader=loader)['paper', 'SSIM'].value != quick(generator, loader=loader, norm='batch')['paper', 'SSIM'].value


def test_what_the_command_line_calls(run, tmp_path):
    options = dict(checkpoints=str(run/'checkpoints'), results=str(tmp_path), how_many=13, device='cpu', samples=100)
    with pytest.raises(FileNotFoundError, match='crossview test'): write_evaluation('one', **options)
    for name in ('one', 'two'): write_results(name, str(sample_data('toytown64')), how_many=13, checkpoints=str(run/'checkpoints'), results=str(tmp_path), device='cpu')
    with pytest.raises(ValueError, match='give data_root'): write_evaluation('one', norm='batch', **options)
    with pytest.raises(FileNotFoundError, match='three'): write_evaluation('one', against='three', **options)
    assert not (tmp_path/'one'/'1_net_G_val'/'evaluation.md').exists()
    written = write_evaluation('one', against='two', **options)
    page = (tmp_path/'one'/'1_net_G_val'/'index.html').read_text()
    assert 'PSNR (paper)' in page and 'two: imagined' in page
    assert [path.name for path in written] == ['evaluation.md', 'evaluation.json', 'evaluation.csv', 'comparison-two.md', 'comparison-two.json']
    assert all(path.parent == tmp_path/'one'/'1_net_G_val' for path in written)
    first = json.loads(written[1].read_text())
    with open(written[2], newline='') as file: rows = list(csv.DictReader(file))
    assert len(rows) == 13 == first['settings']['places']
    ssim = next(figure for figure in first['figures'] if (figure['group'], figure['name']) == ('paper', 'SSIM'))
    assert abs(np.mean([float(row['paper/SSIM']) for row in rows]) - ssim['value']) < 1e-6
    assert '| SSIM |' in written[0].read_text() and 'two' in written[3].read_text()
    anew = write_evaluation('one', str(sample_data('toytown64')), **options)
    for a, b in zip(first['figures'], json.loads(anew[1].read_text())['figures'], strict=True): assert a['value'] == b['value'] or abs(a['value'] - b['value']) < 1e-5*abs(a['value'])
    assert write_evaluation('one', str(sample_data('toytown64')), norm='batch', **options)[0].name == 'evaluation-batch.md'
    assert not [path for path in tmp_path.rglob('*') if path.name.endswith('.part')]


def test_find_results(tmp_path):
    for epoch in ('5', '35'): (tmp_path/'x'/f'{epoch}_net_G_val'/'images').mkdir(parents=True)
    os.utime(tmp_path/'x'/'5_net_G_val'/'images', (0, 0))
    for label in ('35', 'epoch-0035', 'latest'): assert find_results('x', label=label, results=tmp_path).name == '35_net_G_val'
    with pytest.raises(FileNotFoundError, match='there are 35_net_G_val, 5_net_G_val'): find_results('x', label='7', results=tmp_path)


def test_a_judge_of_your_own(run, tmp_path, monkeypatch):
    "The paper's classifier joins the shipped one where its weights are given"
    import crossview_nb.judges as judges
    monkeypatch.setattr(judges, 'places_classifier', lambda path: Judge(9))
    write_results('one', str(sample_data('toytown64')), how_many=5, checkpoints=str(run/'checkpoints'), results=str(tmp_path), device='cpu')
    written = write_evaluation('one', results=str(tmp_path), places365='x.pth.tar', device='cpu', samples=50)
    groups = {figure['group'] for figure in json.loads(written[1].read_text())['figures']}
    assert {'AlexNet-Places365', 'ToyTown classifier (street)'} <= groups


def test_judges_are_shown_squares():
    class Square:
        def probabilities(self, images): return self.seen(images).mean((2, 3)).softmax(1)
        def features(self, images): return self.seen(images).mean((2, 3))
        def segment(self, images): return darkness(self.seen(images))
        def seen(self, images):
            assert images.shape[2] == images.shape[3] == 16
            return images
    wide = [p._replace(**{kind: getattr(p, kind).repeat_interleave(2, 3) for kind in Pictures._fields[1:]}) for p in places(6)]
    found = quick(wide, classifiers={'square': Square()}, segmenter=Square())
    assert found.settings['size'] == '16 x 32'
    square = quick(places(6), classifiers={'square': Square()}, segmenter=Square())
    key = 'semantic consistency of the imagined image', 'mIoU'
    assert abs(found[key].value - square[key].value) < .03 and abs(found['square', 'KL(model || data)'].value - square['square', 'KL(model || data)'].value) < 1e-3


def test_shipped_judges_that_are_missing(monkeypatch):
    import crossview_nb.judges as judges
    def missing(name, **options): raise DataError(f'{name} is missing')
    monkeypatch.setattr(judges, 'load_judge', missing)
    found = evaluate(places(5), samples=50, device='cpu', progress=False)
    assert 'street-scene is missing' in str(found) and 'street-segmenter is missing' in str(found)


# --- bad input ---------------------------------------------------------------------------------------------------

def test_missing_counterpart(tmp_path):
    folder = write_folder(tmp_path, joined(places(6)))
    (folder/'images'/'output'/'0003.png').unlink()
    with pytest.raises(DataError, match='has no output picture for 1 of 6 places .0003.'): quick(folder)


def test_different_sizes(tmp_path):
    folder = write_folder(tmp_path, joined(places(6)))
    Image.new('RGB', (17, 16)).save(folder/'images'/'output'/'0005.png')
    with pytest.raises(DataError, match='0005.png is 17 x 16 pixels'): quick(folder, batch_size=2)


def test_empty_or_other_folder(tmp_path):
    with pytest.raises(DataError, match='no folder images'): quick(tmp_path/'none')
    folder = write_folder(tmp_path/'a'/'b', joined(places(2)))
    with pytest.raises(DataError, match=r'there are some in .*a/b'): quick(tmp_path)
    for path in (folder/'images'/'output').iterdir(): path.unlink()
    with pytest.raises(DataError, match='holds no picture'): quick(folder)
    with pytest.raises(DataError, match='no picture to measure'): quick(iter(()))


def test_without_maps_the_table_says_so(tmp_path):
    whole = joined(places(5))
    found = quick(write_folder(tmp_path, Pictures(whole.names, whole.target, whole.output)))
    assert 'no seg_target' in found.gaps['imagined segmentation', 'pixel accuracy, mIoU'] and ('imagined segmentation', 'mIoU') not in found.figures
    assert ('semantic consistency of the imagined image', 'pixel accuracy, mIoU') in found.gaps
    assert ('x', 'mIoU') not in quick(tmp_path, segmenter=None, classifiers={}).figures


def test_one_image():
    found = quick(places(1))
    assert all(math.isnan(figure.low) for figure in found.figures.values())
    for name in ('Inception score, all classes', 'FID on its features', 'KID on its features', 'spread of KL over images'):
        assert math.isnan(found['toy', name].value) and 'undefined for one image' in found['toy', name].note
    assert found['paper', 'PSNR'].texts()[1] == 'none' and 'undefined for one image' in str(found)
    assert json.loads(found.to_json()) and list(found.rows())[0]['name'] == '0000'
    compare(found, quick(places(1)))


def test_diverged_network(run):
    generator = load_generator(run/'checkpoints'/'one')
    with torch.no_grad(): next(generator.parameters()).fill_(math.nan)
    loader = CrossViewLoader(CrossViewDataset(sample_data('toytown64'), 'val', size=64), 10, 'serial', 13)
    with pytest.raises(DataError, match='10 of 10 imagined images hold values that are no numbers'): quick(generator, loader=loader)


def test_other_mistakes(run, tmp_path):
    generator = load_generator(run/'checkpoints'/'one')
    with pytest.raises(ValueError, match='give a CrossViewLoader'): quick(generator)
    folder = write_folder(tmp_path, joined(places(4)))
    with pytest.raises(ValueError, match='made already'): quick(folder, norm='batch')
    with pytest.raises(ValueError, match='samples is 1'): quick(folder, samples=1)
    with pytest.raises(DataError, match='uint8 is wanted'): quick([Pictures(['a'], torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16))])
    few = quick(places(10), classifiers={'toy': Judge(4)})
    assert few.gaps['toy', 'top-5'] == 'the classifier has 4 classes only' and ('toy', 'accuracy top-5') not in few.figures


def test_names_that_would_spoil_a_table(tmp_path):
    odd = ['a,b', 'c"d', 'e|f\n']
    whole = joined(places(3))
    found = quick([whole._replace(names=odd)])
    assert [row['name'] for row in found.rows()] == odd
    found.to_csv(tmp_path/'x.csv')
    with open(tmp_path/'x.csv', newline='') as file: assert [row['name'] for row in csv.DictReader(file)] == odd


# --- memory ------------------------------------------------------------------------------------------------------

def test_memory_does_not_grow():
    "1,400 places more need no memory to speak of"
    program = '''
import resource, sys, torch
sys.path.insert(0, 'tests')
from test_evaluation import Judge, darkness
from crossview_nb.evaluation import evaluate
from crossview_nb.families import Pictures
def places(n):
    for k in range(n//40):
        x = torch.randint(0, 256, (3, 40, 3, 64, 64), dtype=torch.uint8)
        yield Pictures([f'{k}-{i}' for i in range(40)], x[0], x[1], x[2], x[2])
peak = []
for n in (200, 1600):
    evaluate(places(n), classifiers={'toy': Judge()}, segmenter=darkness, samples=200, device='cpu', progress=False)
    peak.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
print(peak[1] - peak[0])'''
    pytest.importorskip('resource')
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, cwd=families.__file__.rpartition('/crossview_nb/')[0], env=None)
    assert done.returncode == 0, done.stderr[-3000:]
    assert float(done.stdout) < 12, f'{done.stdout} MiB more'   # the pictures alone would be 69 MiB
