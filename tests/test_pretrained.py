"The trained networks that come with the package, and the tools that made them."
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors import safe_open

from crossview_nb.data import DataError, sample_data
from crossview_nb.pretrained import PRETRAINED, load_pretrained, load_pretrained_regime, load_timeline, pretrained_card, pretrained_folder
from crossview_nb.training import read_config


@pytest.fixture
def tools(root, monkeypatch):
    "tools/ as a place to import from"
    monkeypatch.setattr(sys, 'path', [str(root/'tools'), *sys.path])


@pytest.mark.parametrize('name', PRETRAINED)
def test_every_model_imagines(name):
    generator = load_pretrained(name)
    with torch.no_grad(): image, segmentation = generator(torch.rand(2, 3, 64, 64)*2 - 1)
    assert image.shape == (2, 3, 64, 64) and image.dtype == torch.float32 and 0 < image.std() and image.abs().max() <= 1
    assert (segmentation is None) == name.startswith('pix2pix')
    assert not generator.training and not any(parameter.requires_grad for parameter in generator.parameters())


@pytest.mark.parametrize('name', PRETRAINED)
def test_every_model_is_as_its_card_says(name):
    config, about = read_config(pretrained_folder(name))
    regime, direction = name.split('-')
    assert (config.regime, config.networks.direction, config.networks.size) == (regime, direction, 64)
    card = pretrained_card(name)
    assert card['run'] == max(card['chosen'], key=card['chosen'].get)
    assert card['run'] == f'{name}{"" if config.networks.n_layers == 3 else f"-n{config.networks.n_layers}"}-seed{config.seed}'
    assert '/' not in json.dumps(about['training']).replace('a/b', ''), 'a folder of whoever trained it is told'


def test_weights_are_half_precision_and_finite():
    for path in sample_data('pretrained').rglob('*.safetensors'):
        with safe_open(path, 'pt') as file:
            for key in file.keys():
                tensor = file.get_tensor(key)
                assert tensor.dtype == torch.float16 or key.endswith('num_batches_tracked'), (path, key)
                assert tensor.isfinite().all(), (path, key)


def test_all_together_are_light(root):
    total = sum(path.stat().st_size for path in sample_data('pretrained').rglob('*') if path.is_file())
    assert total < 40*2**20
    assert sum(path.stat().st_size for path in sample_data('timeline').iterdir()) < 3*2**20


def test_cards_tell_what_the_study_found(root):
    for name in PRETRAINED:
        card = pretrained_card(name)
        run = json.loads((root/'nbs'/'study'/'results'/f'{card["run"]}.json').read_text())
        found = {(one['group'], one['name']): one['value'] for one in run['figures']['test, running']['figures']}
        assert card['measures']['standard: SSIM'][0] == found['standard', 'SSIM']


def test_training_goes_on_from_there():
    torch.manual_seed(0)
    regime = load_pretrained_regime('seq-a2g', lambda_grads=0.)
    assert regime.training and regime.config.lambda_grads == 0
    assert set(regime.networks) == {'G1', 'G2', 'D1', 'D2'}
    before = {name: [parameter.clone() for parameter in network.parameters()] for name, network in regime.networks.items()}
    from crossview_nb.data import CrossViewBatch
    losses = regime.step(CrossViewBatch(*torch.rand(3, 4, 3, 64, 64)*2 - 1, names=list('abcd')))
    assert all(loss.isfinite() for loss in losses.values())
    for name, network in regime.networks.items():
        assert any(not torch.equal(one, other) for one, other in zip(before[name], network.parameters())), name


@pytest.mark.parametrize('name', ['fork', 'fork-b2g', '../fork-a2g', ''])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match='there are pix2pix-a2g, fork-a2g'): load_pretrained(name)


def test_what_is_missing_or_damaged_is_told(tmp_path):
    shutil.copytree(sample_data('pretrained')/'fork-a2g', tmp_path/'fork-a2g')
    weights = tmp_path/'fork-a2g'/'G.safetensors'
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match='G.safetensors'): load_pretrained('fork-a2g', tmp_path)
    (tmp_path/'fork-a2g'/'card.json').write_text('{')
    with pytest.raises(DataError, match='damaged'): pretrained_card('fork-a2g', tmp_path)
    with pytest.raises(FileNotFoundError): load_pretrained('seq-a2g', tmp_path)
    with pytest.raises(ValueError, match='without a discriminator of 4 layers'): load_pretrained_regime('pix2pix-a2g', n_layers=4)


def test_a_damaged_timeline_is_refused(tmp_path):
    shutil.copytree(sample_data('timeline'), tmp_path/'timeline')
    timeline = load_timeline(tmp_path/'timeline')
    assert timeline.imagined.shape == timeline.segmentation.shape and np.isnan(timeline.losses['D'][0])
    first = tmp_path/'timeline'/f'{timeline.iterations[0]:08d}.jpg'
    shutil.copy(tmp_path/'timeline'/'places.png', first)
    with pytest.raises(DataError, match='not 2 rows of 64'): load_timeline(tmp_path/'timeline')


def test_the_plan_of_the_study(tools, tmp_path):
    import study
    plan = study.plan()
    assert len(plan) == 70 and list(plan)[:6] == [f'{regime}-{direction}-seed0' for direction in ('a2g', 'g2a') for regime in ('pix2pix', 'fork', 'seq')]
    configs = {name: study.config_of(name, tmp_path) for name in plan}
    updates = {name: config.epochs*(study.PAIRS['train'] if config.phase == 'train' else int(config.phase.removeprefix('first'))) for name, config in configs.items()}
    assert set(updates.values()) == {study.EPOCHS*study.PAIRS['train']}, 'every run sees as many examples'
    assert configs['fork-a2g-segmentation0-seed1'].networks.segmentation_weight == 0 and configs['fork-a2g-segmentation0-seed1'].seed == 1
    assert not configs['pix2pix-a2g-l1-only-seed0'].networks.use_gan


def test_two_copies_of_the_study_share_the_runs(tools, tmp_path):
    import study
    with study.claimed(tmp_path/'locks'/'a') as first, study.claimed(tmp_path/'locks'/'a') as second, study.claimed(tmp_path/'locks'/'b') as third:
        assert (first, second, third) == (True, False, True)
    with study.claimed(tmp_path/'locks'/'a') as again: assert again


def test_moments_of_the_timeline_lie_closer_at_the_start(tools):
    import ship
    kept = ship.spaced(list(range(0, 3726, 25)))
    assert kept[0] == 0 and kept[-1] == 3725 and 30 < len(kept) <= 48
    gaps = np.diff(kept)
    assert gaps[:10].mean() < gaps[-10:].mean()/4
