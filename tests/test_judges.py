"The judges: those that are shipped are as good as their cards say, loading them runs nothing, and bad input is refused."
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load, save_file

from crossview_nb.data import CITYSCAPES, DataError, sample_data
from crossview_nb.judges import (JUDGES, QUESTIONS, SCENE_CLASSES, SEEN_CLASSES, Towns, build_judge, check_pictures, judge_card, load_judge,
                                 places_classifier, read_towns, save_judge, scene_positions, score_judge, train_judge)
from crossview_nb.pairs import write_toytown

NEW_TOWNS = 9205    # a seed that nothing else uses: neither the judges' lessons (7100) nor the samples (0)
every_judge = pytest.mark.parametrize('name', JUDGES)


@pytest.fixture(scope='module')
def fresh(tmp_path_factory):
    "Towns that nobody has seen, by view"
    folder = write_toytown(tmp_path_factory.mktemp('fresh'), 120, size=64, seed=NEW_TOWNS, split='test', progress=False)
    return {view: read_towns(folder, view) for view in ('street', 'aerial')}


@pytest.fixture
def lessons(): return read_towns(sample_data('toytown64')/'val', 'street')


def pictures(n=3, size=64): return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))


# --- what is shipped -------------------------------------------------------------------------------------------

@every_judge
def test_as_good_as_its_card_says(name, fresh):
    "On new towns every score lies within four standard errors of the card's (and rounding), as chance allows"
    card, towns = judge_card(name), fresh[name.split('-')[0]]
    scores = score_judge(load_judge(name), towns)
    for key in ('top-1', 'top-5', *QUESTIONS) if 'scene' in name else ('pixel accuracy', 'mIoU'):
        stated = card['scores'][key]
        # pixels of one picture err together: a few hundredths are more than they vary over 120 pictures
        slack = 4*math.sqrt(stated*(1 - stated)/len(towns.images)) + .01 if 'scene' in name else .04
        assert scores[key] > stated - slack, f'{key}: {scores[key]:.3f}, the card says {stated}'


@every_judge
def test_is_worth_asking(name):
    "The floor under what the cards may say"
    scores = judge_card(name)['scores']
    floor = {'top-1': .8, 'top-5': .98} if 'scene' in name else {'pixel accuracy': .95, 'mIoU': .75}
    assert all(scores[key] >= value for key, value in floor.items()), scores


def test_is_small_and_complete():
    folder = sample_data('judges')
    files = {path.name for path in folder.iterdir() if path.name[0] != '.'}
    assert files == {'README.md'} | {f'{name}.{kind}' for name in JUDGES for kind in ('json', 'safetensors')}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3e6
    text = (folder/'README.md').read_text(encoding='utf-8')
    for name in JUDGES:
        card = json.loads((folder/f'{name}.json').read_text(encoding='utf-8'))
        assert {'command', 'settings', 'data', 'scores', 'classes', 'parameters'} <= set(card)
        assert f'`{name}`' in text and all(f'{value:.3f}' in text for value in card['scores'].values()), 'README and card differ'
        assert card['parameters'] == sum(p.numel() for p in build_judge(name).parameters())


@every_judge
def test_loading_unpickles_nothing(name, monkeypatch):
    def refuse(*args, **kwargs): raise AssertionError('something was unpickled')
    for module, function in ((pickle, 'load'), (pickle, 'loads'), (torch, 'load')): monkeypatch.setattr(module, function, refuse)
    judge = load_judge(name)
    assert not judge.training and not any(p.requires_grad for p in judge.parameters())
    assert {p.dtype for p in judge.parameters()} == {torch.float32}


@every_judge
def test_each_picture_for_itself(name):
    "No answer depends on the pictures beside it, nor on the mode the judge was left in"
    judge, some = load_judge(name), pictures(70)
    ask = judge.probabilities if 'scene' in name else lambda x: judge.segment(x).float()
    together = ask(some)
    alone = torch.cat([ask(one) for one in some[:5].split(1)])
    assert (together[:5] - alone).abs().mean() < 1e-3   # a tie between two classes may fall either way
    judge.train()
    assert torch.equal(ask(some), together) and judge.training


def test_probabilities_and_features():
    judge, some = load_judge('street-scene'), pictures()
    p, parts = judge.probabilities(some), judge.answers(some)
    assert p.shape == (3, len(SCENE_CLASSES)) and torch.allclose(p.sum(1), torch.ones(3), atol=1e-5)
    for i, name in enumerate(SCENE_CLASSES):
        product = torch.ones(3)
        for (question, options), answer in zip(QUESTIONS.items(), name.split(', ')): product = product*parts[question][:, options.index(answer)]
        assert torch.allclose(p[:, i], product, atol=1e-6)
    assert judge.features(some).shape == (3, 64) and judge.features(some).isfinite().all()
    positions = scene_positions(torch.cartesian_prod(*(torch.arange(len(options)) for options in QUESTIONS.values())))
    assert positions.tolist() == list(range(len(SCENE_CLASSES)))


@pytest.mark.parametrize('size', [32, 64, 128, 256])
def test_other_sizes(size):
    some = pictures(2, size)
    assert load_judge('aerial-scene').probabilities(some).shape == (2, 24)
    classes = load_judge('aerial-segmenter').segment(some)
    assert classes.shape == (2, size, size) and classes.dtype == torch.int64 and set(classes.unique().tolist()) <= set(SEEN_CLASSES)
    assert max(SEEN_CLASSES) < len(CITYSCAPES)


def test_sees_the_same_at_256(fresh):
    "A street rendered larger gets the answers of the smaller one, mostly"
    from crossview_nb.pairs import scene_seed
    from crossview_nb.toytown import render_pair
    large = torch.stack([torch.tensor(render_pair(scene_seed(i, 'test', NEW_TOWNS), size=256, supersample=1)['street']) for i in range(4)]).permute(0, 3, 1, 2)/255
    small, judge = fresh['street'].images[:4]/255, load_judge('street-segmenter')
    agree = judge.segment(large)[:, 2::4, 2::4] == judge.segment(small)
    assert agree.float().mean() > .93


# --- training --------------------------------------------------------------------------------------------------

@every_judge
def test_learns(name):
    towns = read_towns(sample_data('toytown64')/'train', name.split('-')[0], limit=32)
    before, after = (score_judge(train_judge(name, towns, epochs=epochs, batch_size=8, progress=False), towns) for epochs in (1, 12))
    key = 'road' if 'scene' in name else 'pixel accuracy'
    assert after[key] > max(before[key], .6)


def test_same_seed_same_judge_and_global_random_numbers_untouched(lessons):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train_judge('street-scene', lessons, epochs=1, seed=3, progress=False)
    assert torch.equal(torch.rand(3), expected)
    again, other = (train_judge('street-scene', lessons, epochs=1, seed=seed, progress=False) for seed in (3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))
    assert not torch.equal(first.head.weight, other.head.weight)


def test_resumes_exactly(lessons, tmp_path, monkeypatch):
    how, checkpoint = dict(epochs=3, batch_size=8, progress=False), tmp_path/'judge.pt'
    whole = train_judge('street-scene', lessons, **how)
    import crossview_nb.judges as judges
    loss, calls = judges.judge_loss, []
    def interrupted(*args):
        calls.append(1)
        if len(calls) > 6: raise KeyboardInterrupt    # in the middle of the second epoch of four steps
        return loss(*args)
    monkeypatch.setattr(judges, 'judge_loss', interrupted)
    with pytest.raises(KeyboardInterrupt): train_judge('street-scene', lessons, checkpoint=checkpoint, **how)
    monkeypatch.setattr(judges, 'judge_loss', loss)
    assert torch.load(checkpoint, weights_only=True)['epoch'] == 1
    resumed = train_judge('street-scene', lessons, checkpoint=checkpoint, **how)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
    with pytest.raises(DataError, match='now asked for'): train_judge('street-scene', lessons, checkpoint=checkpoint, **(how | dict(epochs=4)))
    assert [path.name for path in tmp_path.iterdir()] == ['judge.pt'], 'a torn file was left'
    checkpoint.write_bytes(b'torn')
    with pytest.raises(DataError, match='judge.pt'): train_judge('street-scene', lessons, checkpoint=checkpoint, **how)


# --- bad input -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('wrong, says', [
    (pictures()*2 - 1, 'instead of 0 to 1'), (pictures()*255, 'instead of 0 to 1'), (pictures()*float('nan'), 'NaN'),
    ((pictures()*255).byte(), 'divide bytes by 255'), (pictures()[:, :, :32], 'square'), (pictures()[:, :1], 'square'), (pictures()[0], 'square'),
    (pictures()[:0], 'square'), ([1, 2], 'found list')])
def test_refuses_pictures(wrong, says):
    with pytest.raises(DataError, match=says): check_pictures(wrong)
    for name in ('street-scene', 'street-segmenter'):
        judge = load_judge(name)
        for ask in (judge.probabilities, judge.features, judge.answers) if 'scene' in name else (judge.segment,):
            with pytest.raises(DataError, match=says): ask(wrong)


def test_refuses_names_and_views(lessons):
    for call in (build_judge, load_judge, judge_card):
        with pytest.raises(DataError, match='there is no judge .* there are street-scene'): call('street-critic')
    with pytest.raises(DataError, match='cannot be scored'): score_judge(load_judge('aerial-scene'), lessons)
    with pytest.raises(DataError, match='less than one batch'): train_judge('street-scene', lessons, batch_size=64)


def test_refuses_folders(tmp_path):
    with pytest.raises(DataError, match='attributes.csv'):
        source = sample_data('toytown64')/'val'
        picture = next(source.glob('*.png'))
        (tmp_path/picture.name).write_bytes(picture.read_bytes())
        read_towns(tmp_path, 'street')
    (tmp_path/'attributes.csv').write_text('name,colour\n000000.png,red\n')
    with pytest.raises(DataError, match='no column .*crossing'): read_towns(tmp_path, 'street')
    (tmp_path/'attributes.csv').write_text('name,crossing,crossing_at,road\nother.png,none,3,setts\n')
    with pytest.raises(DataError, match='says nothing about it'): read_towns(tmp_path, 'street')


def test_refuses_damaged_judges(tmp_path):
    save_judge(build_judge('street-scene'), tmp_path, {})
    weights, card = tmp_path/'street-scene.safetensors', tmp_path/'street-scene.json'
    load_judge('street-scene', tmp_path)
    good, text = weights.read_bytes(), card.read_text()
    tensors = load(good)
    for damaged in (good[:1000], b'', b'x'*100):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match='is damaged'): load_judge('street-scene', tmp_path)
    save_file({key: value for key, value in tensors.items() if 'head' not in key}, weights)
    with pytest.raises(DataError, match='is it another judge'): load_judge('street-scene', tmp_path)
    save_file(tensors | {'head.bias': tensors['head.bias']*float('nan')}, weights)
    with pytest.raises(DataError, match='not finite'): load_judge('street-scene', tmp_path)
    weights.write_bytes(good)
    for wrong, says in ((text.replace('no crossing', 'roundabout'), 'another kind'), (text[:40], 'is damaged'), ('[1]', 'another kind')):
        card.write_text(wrong)
        with pytest.raises(DataError, match=says): load_judge('street-scene', tmp_path)
    card.unlink()
    with pytest.raises(DataError, match='is missing'): load_judge('street-scene', tmp_path)


# --- the paper's judge -----------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def alexnet():
    from torchvision.models import alexnet
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return alexnet(weights=None, num_classes=365).eval()


def checkpoint(network, prefix='features.module.'):
    state = {key.replace('features.', prefix): value for key, value in network.state_dict().items()}
    return dict(epoch=90, arch='alexnet', state_dict=state, best_prec1=50.)


def test_places_reads_the_published_format(alexnet, tmp_path):
    "Written as PyTorch 0.x did (no zip file), convolutions alone or the whole network in DataParallel, and as a plain state dict"
    path, some = tmp_path/'alexnet_places365.pth.tar', pictures(2, 256)
    from torchvision import transforms
    prepare = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224),
                                  transforms.Normalize([.485, .456, .406], [.229, .224, .225])])
    with torch.no_grad(): expected = alexnet(prepare(some)).softmax(1)
    whole = checkpoint(alexnet)
    whole['state_dict'] = {f'module.{key}': value for key, value in alexnet.state_dict().items()}
    for content in (checkpoint(alexnet), whole, alexnet.state_dict()):
        torch.save(content, path, _use_new_zipfile_serialization=False)
        judge = places_classifier(path)
        assert not judge.training
        assert torch.allclose(judge.probabilities(some), expected, atol=1e-6)
    with pytest.raises(DataError, match='instead of 0 to 1'): judge.probabilities(some*2 - 1)


class Trap:
    "A pickle that would run a program"
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (str(self.path), 'w')


def test_places_refuses_other_files(alexnet, tmp_path):
    from torchvision.models import alexnet as build
    path, trace = tmp_path/'wrong.pth.tar', tmp_path/'trace'
    def refused(content, says):
        torch.save(content, path)
        with pytest.raises(DataError, match=says) as caught: places_classifier(path)
        assert 'wrong.pth.tar' in str(caught.value)
    refused(dict(state_dict=Trap(trace)), 'Python objects')
    assert not trace.exists(), 'a program in the file was run'
    refused(build(weights=None, num_classes=10).state_dict(), r'classifier.6.bias is \(10,\), wanted \(365,\)')
    refused({key: value for key, value in alexnet.state_dict().items() if key != 'features.0.weight'}, 'features.0.weight is missing')
    refused({'conv.weight': torch.zeros(3)}, 'not AlexNet')
    refused([1, 2], 'no state dict')
    refused({}, 'no state dict')
    refused(alexnet.state_dict() | {'classifier.6.bias': torch.full((365,), float('nan'))}, 'not finite')
    for damaged in (b'', b'hello', path.read_bytes()[:10000]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match='damaged'): places_classifier(path)
    with pytest.raises(DataError, match='does not exist'): places_classifier(tmp_path/'nowhere')
    with pytest.raises(DataError, match='is a folder'): places_classifier(tmp_path)
