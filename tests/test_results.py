"What 10_results should not have to show: every regime, every size of a last batch, odd names, failures half-way."
import re
import html.parser
import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb import results
from crossview_nb.data import CITYSCAPES, CrossViewBatch, CrossViewDataset, CrossViewLoader, DataError, to_levels
from crossview_nb.regime import RegimeConfig
from crossview_nb.results import generate, join_last_single, load_generator, picture_sheet, results_page, write_results
from crossview_nb.training import Trainer, TrainingConfig, build_loader, build_regime, find_checkpoint

ODD_NAMES = ['plain', 'a b', '100%', '%41', 'ümläut', '#1?x=y&z', "it's", '"><script>alert(1)</script>'.replace('/', '∕'),
             '-rf', 'x.y417.a-156', '{title}', '日本']


def write_noise(folder, names, size=64, ending='.png'):
    "Four-panel files of coarse noise"
    noise, colours = np.random.default_rng(0), np.array(list(CITYSCAPES.values()), np.uint8)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        views = noise.integers(0, 256, (size//8, size//4, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        maps = colours[noise.integers(0, len(colours), (size//8, size//4))].repeat(8, 0).repeat(8, 1)
        Image.fromarray(np.concatenate([views, maps], 1)).save(folder/f'{name}{ending}')


def panel(path, index):
    pixels = np.asarray(Image.open(path))
    return pixels[:, index*pixels.shape[0]:(index + 1)*pixels.shape[0]]


@pytest.fixture(scope='module')
def workshop(tmp_path_factory):
    "Data, and for each regime a run of two iterations: enough for the running statistics to have moved"
    folder = tmp_path_factory.mktemp('results')
    write_noise(folder/'data'/'train', map(str, range(8)))
    write_noise(folder/'data'/'val', [f'{i:02d}' for i in range(7)])
    for regime in ('pix2pix', 'fork', 'seq'): run(folder, regime)
    return folder


def run(folder, regime, name=None, **options):
    networks = dict(size=64, ngf=2, ndf=2) | {key: options.pop(key) for key in ('direction',) if key in options}
    config = TrainingConfig(name=name or regime, regime=regime, data_root=str(folder/'data'), batch_size=4, epochs=1, workers=0,
                            device='cpu', precision='fp32', checkpoints=str(folder/'checkpoints'),
                            networks=RegimeConfig(**networks), **options)
    trainer = Trainer(build_regime(config), build_loader(config), device='cpu', precision='fp32')
    trainer.fit(1)
    return trainer.save(config, 'epoch-0001')


def loader(workshop, batch_size=4, limit=None, direction='a2g', **options):
    return CrossViewLoader(CrossViewDataset(workshop/'data', 'val', direction, 64, **options), batch_size, 'serial', limit)


def write(workshop, to, name='fork', **options):
    options = dict(data_root=str(workshop/'data'), checkpoints=str(workshop/'checkpoints'), results=str(to), device='cpu') | options
    return write_results(name, **options)


def left_in(folder): return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*'))


# --- a checkpoint as one function ------------------------------------------------------------------------------

@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
def test_a_checkpoint_is_one_function(workshop, regime):
    generator = load_generator(workshop/'checkpoints'/regime)
    parameters = list(generator.parameters())
    assert not any(module.training for module in generator.modules())
    assert {(p.dtype, p.device.type) for p in parameters} == {(torch.float32, 'cpu')}
    assert not [name for name, _ in generator.named_parameters() if 'D' in name.split('.')[1]], 'discriminators are kept'
    assert generator.config.regime == regime

    batch = next(iter(loader(workshop)))
    with torch.no_grad(): image, segmentation = generator(batch.source)
    assert image.shape == batch.source.shape and image.dtype == torch.float32 and image.abs().max() <= 1
    G = generator.regime.networks
    with torch.no_grad():
        if regime == 'pix2pix':
            assert segmentation is None and torch.equal(image, G['G'](batch.source))
        elif regime == 'fork':
            assert all(map(torch.equal, (image, segmentation), G['G'](batch.source)))
        else:
            assert torch.equal(image, G['G1'](batch.source)) and torch.equal(segmentation, G['G2'](image))


def test_run_or_checkpoint_or_label(workshop):
    one = load_generator(workshop/'checkpoints'/'fork').state_dict()
    for other in (load_generator(str(workshop/'checkpoints'/'fork'/'epoch-0001')), load_generator(workshop/'checkpoints'/'fork', '1'),
                  load_generator(workshop/'checkpoints'/'fork', 1)):
        assert all(torch.equal(value, one[name]) for name, value in other.state_dict().items())
    with pytest.raises(FileNotFoundError, match='epoch-0001'): load_generator(workshop/'checkpoints'/'fork', 9)


def test_discriminators_are_not_needed(workshop):
    checkpoint = run(workshop, 'fork', 'without_d')
    (checkpoint/'D.safetensors').unlink()
    (checkpoint/'training.pt').unlink()
    load_generator(checkpoint)
    (checkpoint/'G.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='G.safetensors is missing'): load_generator(checkpoint)


def test_loading_leaves_chance_alone(workshop):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    load_generator(workshop/'checkpoints'/'seq')
    assert torch.equal(torch.rand(3), expected)


def test_other_sizes_are_refused(workshop):
    generator = load_generator(workshop/'checkpoints'/'fork')
    for shape in [(2, 3, 32, 32), (2, 1, 64, 64), (3, 64, 64), (2, 3, 64, 32)]:
        with pytest.raises(ValueError, match=r'\(N, 3, 64, 64\)'): generator(torch.zeros(shape))


# --- every place, by either statistics -------------------------------------------------------------------------

@pytest.mark.parametrize('norm', ['running', 'batch'])
@pytest.mark.parametrize('n, batch_size', [(7, 4), (7, 3), (7, 2), (7, 7), (7, 10), (5, 4), (2, 2), (2, 10)])
def test_no_place_is_left_out(workshop, norm, n, batch_size):
    generator = load_generator(workshop/'checkpoints'/'pix2pix')
    found = list(generate(generator, loader(workshop, batch_size, n), norm))
    assert [name for batch, *_ in found for name in batch.names] == [f'{i:02d}' for i in range(n)]
    for batch, image, _ in found:
        assert len(image) == len(batch.target) == len(batch.target_seg) == len(batch.names)
        if norm == 'batch': assert 2 <= len(image) <= batch_size + 1


def test_one_place_has_no_statistics_of_its_own(workshop):
    generator = load_generator(workshop/'checkpoints'/'fork')
    for batches in (loader(workshop, 4, 1), loader(workshop, 1)):
        with pytest.raises(ValueError, match="norm='running'"): list(generate(generator, batches, norm='batch'))
    assert len(list(generate(generator, loader(workshop, 1)))) == 7
    with pytest.raises(ValueError, match="'running' or 'batch'"): list(generate(generator, loader(workshop), norm='instance'))


def test_join_last_single_keeps_the_order():
    batches = [CrossViewBatch(*[torch.full((len(names), 1, 1, 1), 0.)]*3, list(names)) for names in ('abc', 'def', 'g')]
    assert [batch.names for batch in join_last_single(iter(batches))] == [['a', 'b', 'c'], ['d', 'e', 'f', 'g']]
    assert list(join_last_single([])) == []


@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
def test_batch_with_dropout_is_training_mode(workshop, regime):
    "What the authors' program does at test time: nothing is switched"
    generator, batch = load_generator(workshop/'checkpoints'/regime), next(iter(loader(workshop)))
    torch.manual_seed(1)
    _, image, segmentation = next(generate(generator, loader(workshop), norm='batch', dropout=True))
    trained = load_generator(workshop/'checkpoints'/regime)
    torch.manual_seed(1)
    with torch.no_grad(): expected, expected_segmentation = trained.train()(batch.source)
    assert torch.equal(image, expected)
    assert segmentation is None if regime == 'pix2pix' else torch.equal(segmentation, expected_segmentation)


@pytest.mark.parametrize('norm, dropout', [('running', False), ('running', True), ('batch', False), ('batch', True)])
def test_looking_changes_nothing(workshop, norm, dropout):
    generator = load_generator(workshop/'checkpoints'/'seq')
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    first = next(generate(generator, loader(workshop), norm, dropout))[1]   # and left in the middle
    assert not any(module.training for module in generator.modules())
    assert all(torch.equal(value, before[name]) for name, value in generator.state_dict().items())
    assert not first.requires_grad
    again = next(generate(generator, loader(workshop), norm, dropout))[1]
    assert torch.equal(first, again) == (not dropout)


# --- the folder ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('direction', ['a2g', 'g2a'])
@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
def test_pictures_are_those_of_the_data_and_the_generator(workshop, tmp_path, regime, direction):
    name = regime if direction == 'a2g' else f'{regime}-g2a'
    if direction == 'g2a': run(workshop, regime, name, direction='g2a')
    folder = write(workshop, tmp_path, name, batch_size=3)          # 3 + 3 + 1
    assert folder == tmp_path/name/'1_net_G_val'
    kinds = {'input', 'output', 'target'} | ({'seg_output', 'seg_target'} if regime != 'pix2pix' else set())
    assert {path.name for path in (folder/'images').iterdir()} == kinds
    files = sorted((workshop/'data'/'val').iterdir())
    for kind in kinds: assert [p.name for p in sorted((folder/'images'/kind).iterdir())] == [p.name for p in files]
    source, target = (1, 0) if direction == 'a2g' else (0, 1)
    for file in files:
        for kind, index in dict(input=source, target=target, seg_target=target + 2).items():
            if kind in kinds: assert (np.asarray(Image.open(folder/'images'/kind/file.name)) == panel(file, index)).all(), (kind, file)
    generator, images = load_generator(workshop/'checkpoints'/name), loader(workshop, 3, direction=direction)
    for batch, image, segmentation in generate(generator, images):
        for place, pixels in zip(batch.names, to_levels(image).permute(0, 2, 3, 1).numpy()):
            assert (np.asarray(Image.open(folder/'images'/'output'/f'{place}.png')) == pixels).all()


class Links(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.addresses, self.text, self.tags = [], [], '', []
        self.feed(text)
    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        if tag == 'img' and attributes.get('src'): self.sources.append(attributes['src'])
        self.addresses += [value for key, value in attributes.items() if key in ('src', 'href') and value]
        assert not [key for key in attributes if key.startswith('on')], attributes
    def handle_data(self, data): self.text += data


def test_page_with_odd_names(workshop, tmp_path):
    write_noise(tmp_path/'data'/'<val> & "co"', ODD_NAMES)
    folder = write(workshop, tmp_path/'out', phase='<val> & "co"', data_root=str(tmp_path/'data'))
    text = (folder/'index.html').read_text(encoding='utf-8')
    page = Links(text)
    assert page.tags.count('script') <= 1 and '<script>alert' not in text
    assert len(page.sources) == 5*len(ODD_NAMES)
    for source in page.addresses:
        assert not source.startswith(('http:', 'https:', '//', '/')), source
        assert (folder/unquote(source)).is_file(), source
    for name in ODD_NAMES: assert name in page.text
    assert 'http://' not in text and 'https://' not in text, 'the page asks the network for something'
    for told in ('X-Fork', 'aerial', 'street', 'running'): assert told in page.text


def test_names_stay_in_the_folder(workshop, tmp_path):
    (tmp_path/'data').mkdir()
    write_noise(tmp_path/'data'/'a'/'b', ['x', 'y'])
    for phase in ('a/b', '../data/a/b', str(tmp_path/'data'/'a'/'b')):
        folder = write(workshop, tmp_path/'out', phase=phase, data_root=str(tmp_path/'data'))
        assert folder.parent == tmp_path/'out'/'fork' and folder.is_dir()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['data', 'out']
    for name in ('../fork', 'a/fork', '..', ''):
        with pytest.raises(ValueError, match='name'): write(workshop, tmp_path/'out', name=name)


def test_settings_of_the_run(workshop, tmp_path):
    folder = write(workshop, tmp_path, how_many=3, aspect_ratio=2., norm='batch', dropout=True)
    assert len(list((folder/'images'/'output').iterdir())) == 3
    assert {Image.open(path).size for path in (folder/'images').rglob('*.png')} == {(128, 64)}
    colours = {tuple(c) for path in (folder/'images'/'seg_target').iterdir() for c in np.asarray(Image.open(path)).reshape(-1, 3)}
    assert colours <= set(CITYSCAPES.values()), 'stretching a segmentation invented colours'
    sheet = Image.open(folder/'contact_sheet.jpg')
    assert sheet.width > 5*100 and sheet.height > 3*100/2
    again = write(workshop, tmp_path/'again', how_many=3, aspect_ratio=2., norm='batch', dropout=True)
    for path in (folder/'images'/'output').iterdir():
        assert path.read_bytes() == (again/'images'/'output'/path.name).read_bytes(), 'a seed fixes dropout'
    for bad in (dict(how_many=0), dict(aspect_ratio=0.), dict(aspect_ratio=-1.), dict(aspect_ratio=float('nan')), dict(batch_size=0),
                dict(norm='other'), dict(panel_order='street'), dict(phase='nowhere'), dict(label='7'), dict(name='unknown')):
        with pytest.raises((ValueError, OSError)): write(workshop, tmp_path/'bad', **bad)
        assert not (tmp_path/'bad').exists() or left_in(tmp_path/'bad') in ([], ['fork']), bad


def test_panel_order_of_the_checkpoint_may_be_overridden(workshop, tmp_path):
    order = 'aerial,street,aerial_seg,street_seg'
    run(workshop, 'pix2pix', 'ordered', panel_order=order)
    file = workshop/'data'/'val'/'00.png'
    for options, index in (({}, 0), (dict(panel_order='street,aerial,street_seg,aerial_seg'), 1)):
        folder = write(workshop, tmp_path, 'ordered', **options)
        assert (np.asarray(Image.open(folder/'images'/'input'/'00.png')) == panel(file, index)).all()


def test_pictures_of_a_bgr_run_have_true_colours(workshop, tmp_path):
    run(workshop, 'fork', 'bgr', bgr=True)
    folder, file = write(workshop, tmp_path, 'bgr'), workshop/'data'/'val'/'00.png'
    for kind, index in dict(input=1, target=0, seg_target=2).items():
        assert (np.asarray(Image.open(folder/'images'/kind/'00.png')) == panel(file, index)).all(), kind
    _, image, _ = next(generate(load_generator(workshop/'checkpoints'/'bgr'), loader(workshop, bgr=True)))
    expected = to_levels(image[0].flip(0)).permute(1, 2, 0).numpy()
    assert (np.asarray(Image.open(folder/'images'/'output'/'00.png')) == expected).all()


def test_written_again(workshop, tmp_path):
    folder = write(workshop, tmp_path)
    (folder/'images'/'output'/'old.png').write_text('')
    assert write(workshop, tmp_path, how_many=2) == folder
    assert len(list((folder/'images'/'output').iterdir())) == 2
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


# --- failures --------------------------------------------------------------------------------------------------

def test_a_damaged_file_half_way_leaves_the_earlier_results(workshop, tmp_path):
    write_noise(tmp_path/'data'/'val', 'abcdef')
    folder = write(workshop, tmp_path/'out', data_root=str(tmp_path/'data'))
    before = left_in(tmp_path/'out')
    damaged = tmp_path/'data'/'val'/'f.png'
    damaged.write_bytes(damaged.read_bytes()[:-200])
    with pytest.raises(DataError, match='f.png'): write(workshop, tmp_path/'out', data_root=str(tmp_path/'data'), batch_size=2)
    assert left_in(tmp_path/'out') == before and folder.is_dir()


@pytest.mark.parametrize('nth', [1, 9, 30])
def test_a_full_disk_leaves_nothing_half_written(workshop, tmp_path, monkeypatch, nth):
    save, calls = Image.Image.save, []
    def full(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == nth: raise OSError(28, 'No space left on device')
        return save(self, *args, **kwargs)
    monkeypatch.setattr(Image.Image, 'save', full)
    with pytest.raises(OSError, match='No space left'): write(workshop, tmp_path)
    assert left_in(tmp_path) in ([], ['fork'])


def test_folders_that_are_files(workshop, tmp_path):
    for at in ('out', 'out2/fork', 'out3/fork/1_net_G_val'):
        (tmp_path/at).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/at).write_text('precious')
        with pytest.raises(OSError, match=Path(at).name): write(workshop, tmp_path/at.split('/')[0])
        assert (tmp_path/at).read_text() == 'precious'
        assert [p for p in tmp_path.rglob('*') if 'partial' in p.name] == []


# --- pictures of pictures --------------------------------------------------------------------------------------

def test_picture_sheet_shows_every_picture():
    levels = torch.linspace(-1, 1, 6)
    columns = {'one': levels[:3].view(3, 1, 1, 1).expand(3, 3, 64, 64), 'none': None, 'two': levels[3:].view(3, 1, 1, 1).expand(3, 3, 64, 64)}
    sheet = picture_sheet(columns, panel=128)
    assert isinstance(sheet, Image.Image) and sheet.mode == 'RGB'
    shades = {grey for count, (grey, *_) in sheet.getcolors(2**20) if count >= 128*128}
    assert {int(level) for level in to_levels(levels)} <= shades
    large = picture_sheet({'one': torch.zeros(1, 3, 256, 256)}, panel=128)
    assert large.width < 2*256 + 50


def test_page_alone_needs_no_pictures():
    bad = '"></dd></title><u onclick=x>'
    text = results_page(bad, [(bad, bad)], {bad: bad}, [bad, 'not text \udcff'], dict(input='aerial', target=bad))
    assert bad not in text and '<u' not in Links(text).tags and text.encode('utf-8')


def test_page_sorts_and_stands_beside_others(tmp_path):
    from crossview_nb.results import add_to_page, results_page
    for name, places in (('one', ['a', '<b>']), ('two', ['a', '<b>'])):
        (tmp_path/name).mkdir()
        page = dict(title='Streets', summary=[['run', f'<{name}>']], settings={}, names=places, kinds=dict(output='imagined'), size=64, aspect=1.)
        (tmp_path/name/'page.json').write_text(json.dumps(page))
    page = add_to_page(tmp_path/'one', {'SSIM': {'a': 0.25, '<b>': 0.5}, 'KL': {'a': 3.}}, {'SSIM': 'high', 'KL': 'low'}, [tmp_path/'two']).read_text()
    rows = re.findall(r'<section data-at="(\d)" data-values="([^"]*)">', page)
    assert rows == [('0', '0.25 3.0'), ('1', '0.5 -')]
    assert re.findall(r'<option value="(-?\d -?\d)">([^<]*)</option>', page) == [
        ('-1 1', 'name'), ('0 1', 'SSIM: worst first'), ('0 -1', 'SSIM: best first'), ('1 1', 'KL: best first'), ('1 -1', 'KL: worst first')]
    assert page.count('src="../two/images/output/') == 2 and '&lt;two&gt;: imagined' in page and '<two>' not in page and '<b>:' not in page
    assert '<select' not in results_page('t', [], {}, ['a'], dict(output='o'))
    (tmp_path/'two/page.json').unlink()
    with pytest.raises(FileNotFoundError, match='two: no page.json'): add_to_page(tmp_path/'one', others=[tmp_path/'two'])
