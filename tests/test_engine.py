"The training engine where it is hard: kill points, several processes, loss scales, caches, and every option's effect."
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb import cache, runs
from crossview_nb.cache import CachedDataset, build_cache
from crossview_nb.data import CrossViewDataset, CrossViewLoader, DataError
from crossview_nb.regime import RegimeConfig
from crossview_nb.runs import NonFiniteLoss, Rows, train
from crossview_nb.training import Callback, Checkpoints, Trainer, TrainingConfig, build_loader, build_regime, find_checkpoint, read_config


def write_noise(folder, n, size=32, seed=0):
    "Four-panel files of coloured blocks"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(seed)
    for i in range(n):
        blocks = noise.integers(0, 256, (4, 16, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(size//4, 0).repeat(size//4, 1)).save(folder/f'{i:02d}.png')


@pytest.fixture
def config(tmp_path):
    "A run of two epochs of three batches"
    write_noise(tmp_path/'data/train', 13)
    write_noise(tmp_path/'data/val', 3, seed=1)
    return TrainingConfig(name='run', regime='seq', data_root=str(tmp_path/'data'), batch_size=4, epochs=2, workers=0,
                          device='cpu', precision='fp32', checkpoints=str(tmp_path/'checkpoints'), val_epochs=0,
                          networks=RegimeConfig(size=32, ngf=2, ndf=2))


def make(config, *callbacks):
    return Trainer(build_regime(config), build_loader(config), None, callbacks, config.device, config.precision, config.compile)


def weights(regime): return {name: tensor.clone() for name, tensor in regime.state_dict().items()}


def differ(one, other): return [name for name in one if not torch.equal(one[name], other[name])]


# --- killed at any moment -------------------------------------------------------------------------------------------

KILLED = '''
import os, random, signal, sys, time
import torch
from crossview_nb.runs import train
from crossview_nb.training import Callback, TrainingConfig, find_checkpoint, load_networks, build_regime, read_config
from crossview_nb.regime import RegimeConfig
torch.set_num_threads(1)
config = TrainingConfig(**{options!r}, networks=RegimeConfig(size=32, ngf=2, ndf=2))
import accelerate, safetensors.torch, fastcore.imports, torch._dynamo   # so that a child does not spend its life importing
draw, kills = random.Random({seed}), 0
for attempt in range(200):
    child = os.fork()   # nothing has been computed here yet, so the child inherits no thread
    if child == 0:
        train(config, continue_training=True)
        os._exit(0)
    time.sleep(draw.uniform(0.05, 0.6))
    os.kill(child, signal.SIGKILL)
    killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    kills += killed
    if not killed: break
print('kills', kills)
'''


@pytest.mark.parametrize('seed', range(3))
def test_killed_many_times_equals_uninterrupted(config, seed):
    config = replace(config, epochs=30, save_epochs=2, save_steps=1, keep=2)
    options = {key: value for key, value in config.__dict__.items() if key != 'networks'}
    program = KILLED.format(options=options, seed=seed)
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kills = int(done.stdout.split('kills')[-1])
    assert kills >= 1, 'the run was too short to be killed'
    run = find_checkpoint(f'{config.checkpoints}/run').parent
    uninterrupted = subprocess.run([sys.executable, '-c', program.replace("'name': 'run'", "'name': 'whole'").replace('draw.uniform(0.05, 0.6)', '100')
                                    .replace('    time.sleep(100)\n    os.kill(child, signal.SIGKILL)\n', '')], capture_output=True, text=True, timeout=300)
    assert uninterrupted.returncode == 0 and 'kills 0' in uninterrupted.stdout, uninterrupted.stderr
    whole = run.parent/'whole'
    for name in ('G1', 'G2', 'D1', 'D2'):
        assert (run/f'epoch-0030/{name}.safetensors').read_bytes() == (whole/f'epoch-0030/{name}.safetensors').read_bytes(), name
    assert Rows(run/'losses.jsonl').read() == Rows(whole/'losses.jsonl').read()
    assert sorted(p.name for p in run.iterdir()) == sorted(p.name for p in whole.iterdir()), 'leavings'


# --- several processes ----------------------------------------------------------------------------------------------

RANKS = '''
import json, sys
import torch
from crossview_nb.runs import train
from crossview_nb import runs
from crossview_nb.regime import RegimeConfig
from crossview_nb.training import *
torch.set_num_threads(1)

class Witness(Callback):
    everywhere, seen = True, []
    def after_step(self, trainer):
        Witness.seen.append((trainer.epoch, trainer.names))
        if trainer.iteration == {stop} and trainer.gradients.rank == 1: trainer.stopped = True   # one of them only
usual = runs.callbacks_of
runs.callbacks_of = lambda *args: [Witness(), *usual(*args)]
config = TrainingConfig(**{options!r}, networks=RegimeConfig(size=32, ngf=2, ndf=2))
trainer = train(config, continue_training={go_on})
sums = {{name: tensor.double().sum().item() for name, tensor in trainer.regime.state_dict().items()}}
masks = torch.rand(3).tolist()
rank = trainer.gradients.rank
open(f'{out}-{{rank}}.json', 'w').write(json.dumps(dict(rank=rank, ranks=trainer.gradients.ranks, seen=Witness.seen, sums=sums, random=masks)))
'''


def two_processes(tmp_path, config, out, stop=0, go_on=False):
    options = {key: value for key, value in config.__dict__.items() if key != 'networks'}
    (tmp_path/'ranks.py').write_text(RANKS.format(options=options, stop=stop, go_on=go_on, out=tmp_path/out))
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(tmp_path/'ranks.py')],
                          capture_output=True, text=True, timeout=300, env=os.environ | {'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((tmp_path/f'{out}-{rank}.json').read_text()) for rank in range(2)], done.stdout


def test_two_processes(config, tmp_path):
    shutil.rmtree(tmp_path/'data/train')
    write_noise(tmp_path/'data/train', 18)
    (first, second), said = two_processes(tmp_path, config, 'whole')
    assert (first['ranks'], second['ranks'], first['rank'], second['rank']) == (2, 2, 0, 1)
    assert first['sums'] == second['sums'], 'weights or batch statistics differ between the processes'
    assert first['random'] != second['random'], 'both would drop out the same places'
    for epoch in (0, 1):
        names = [[name for at, batch in process['seen'] if at == epoch for name in batch] for process in (first, second)]
        assert len(names[0]) == len(names[1]) == 8 and len({*names[0], *names[1]}) == 16, 'overlap, repetition or unequal shares'
    assert said.count('epochs 1 to 2') == 1, 'every process prints'
    rows = Rows(tmp_path/'checkpoints/run/losses.jsonl').read()
    assert [row['iteration'] for row in rows] == [1, 2, 3, 4]
    saved = torch.load(find_checkpoint(tmp_path/'checkpoints/run')/'training.pt', weights_only=True)
    assert len(saved['random']) == 2 and not torch.equal(saved['random'][0]['cpu'], saved['random'][1]['cpu'])


def test_two_processes_stop_together_and_resume_exactly(config, tmp_path):
    config = replace(config, epochs=3, save_steps=2)   # the same moments of saving: averaging the statistics there rounds them
    whole, _ = two_processes(tmp_path, config, 'whole')
    two_processes(tmp_path, replace(config, name='halves'), 'first', stop=2)
    halves, _ = two_processes(tmp_path, replace(config, name='halves'), 'second', go_on=True)
    assert [p['sums'] for p in halves] == [p['sums'] for p in whole]
    assert [p['random'] for p in halves] == [p['random'] for p in whole]


def test_two_processes_make_the_step_of_both_batches(config, tmp_path):
    "Their gradients are averaged: neither process's own batch alone explains the step"
    networks = replace(config.networks, dropout=False, learning_rate=1e-3)
    config = replace(config, regime='pix2pix', epochs=1, limit=8, flip=False, load_size=32, order='serial')
    alone = [replace(config, limit=4), config]
    (first, _), _ = two_processes(tmp_path, config, 'both')
    singles = []
    for single in alone:
        trainer = make(replace(single, networks=RegimeConfig(size=32, ngf=2, ndf=2)))
        trainer.fit(1)
        singles.append({name: tensor.double().sum().item() for name, tensor in trainer.regime.state_dict().items()})
    assert all(single['G.encoder.0.convolution.weight'] != first['sums']['G.encoder.0.convolution.weight'] for single in singles)


# --- loss scales ----------------------------------------------------------------------------------------------------

class Scaler:
    "A loss scaler whose scale changes at every iteration, and that can be made to overflow"
    def __init__(self, scales): self.scales, self.at, self.steps, self.updates = scales, 0, 0, 0
    def get_scale(self): return self.scales[self.at % len(self.scales)]
    def scale(self, loss): return loss*self.get_scale()
    def step(self, optimizer):
        self.steps += 1
        gradients = [p.grad for group in optimizer.param_groups for p in group['params']]
        if all(g.isfinite().all() for g in gradients):
            for g in gradients: g.div_(self.get_scale())
            optimizer.step()
    def update(self): self.at, self.updates = self.at + 1, self.updates + 1
    def state_dict(self): return dict(at=self.at)
    def load_state_dict(self, state): self.at = state['at']


def scaled(config, scaler):
    trainer = make(config)
    trainer.gradients.scaler = trainer.gradients.accelerator.scaler = scaler
    return trainer


@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
def test_a_moving_scale_changes_nothing(config, regime):
    "Powers of two cost no digit, so the weights must be the very same"
    config = replace(config, regime=regime)
    plain, scaler = make(config), Scaler([2.**k for k in (0, 10, 3, 16)])
    plain.fit(2)
    moving = scaled(config, scaler)
    moving.fit(2)
    assert not differ(weights(plain.regime), weights(moving.regime))
    assert scaler.updates == 6 and scaler.steps == 6*len(plain.regime.updates), 'the scale moves once an iteration'


def test_overflow_leaves_out_the_step_and_the_feedback(config):
    trainer = scaled(config, Scaler([math.inf]))
    before = {name: p.clone() for name, p in trainer.regime.named_parameters()}
    trainer.regime.train()
    trainer.regime.step(next(iter(trainer.train)))
    assert not [name for name, p in trainer.regime.named_parameters() if not torch.equal(p, before[name])]
    assert trainer.regime.feedback_left_out == 1


def test_torch_scaler_finds_its_scale(config):
    "PyTorch's own scaler, on CPU: too large a scale is lowered, steps go on, the checkpoint remembers the scale"
    trainer = scaled(replace(config, epochs=4), torch.amp.GradScaler('cpu', init_scale=2.**126, growth_interval=1000))
    trainer.callbacks = [Checkpoints(config)]
    before = weights(trainer.regime)
    trainer.fit(4)
    scale = trainer.gradients.scale
    assert scale < 2.**126 and differ(before, weights(trainer.regime))
    resumed = scaled(config, torch.amp.GradScaler('cpu', init_scale=4.))
    resumed.resume(find_checkpoint(f'{config.checkpoints}/run'))
    assert resumed.gradients.scale == scale


# --- what else a run does -------------------------------------------------------------------------------------------

def test_non_finite_loss_names_the_files_and_keeps_the_last_checkpoint(config, monkeypatch):
    train(replace(config, epochs=1))
    class Poison(Callback):
        def after_step(self, trainer): trainer.regime.D1.layers[0].convolution.weight.data.fill_(math.nan)
    usual = runs.callbacks_of
    monkeypatch.setattr(runs, 'callbacks_of', lambda *args: [*usual(*args), Poison()])
    with pytest.raises(NonFiniteLoss, match=r'D1.* iteration 5, at the pairs \d\d, \d\d, \d\d, \d\d\.'): train(config, continue_training=True)
    assert find_checkpoint(f'{config.checkpoints}/run').name == 'epoch-0001'
    assert all(math.isfinite(value) for row in Rows(f'{config.checkpoints}/run/losses.jsonl').read() for value in row.values())


def test_init_from_takes_weights_only(config):
    first = train(replace(config, epochs=1))
    second = replace(config, name='second', init_from=f'{config.checkpoints}/run', seed=5)
    class Look(Callback):
        def before_fit(self, trainer): self.start, self.at = weights(trainer.regime), trainer.iteration
    look = Look()
    usual = runs.callbacks_of
    try:
        runs.callbacks_of = lambda *args: [look, *usual(*args)]
        train(second)
    finally: runs.callbacks_of = usual
    assert not differ(look.start, weights(first.regime)) and look.at == 0
    with pytest.raises(FileNotFoundError, match='holds none'): train(replace(second, name='third', init_from=f'{config.checkpoints}/nowhere'))
    with pytest.raises(FileNotFoundError, match='none of the networks G, D'): train(replace(second, name='fourth', regime='fork'))
    with pytest.raises(ValueError, match='does not fit'): train(replace(second, name='fifth', networks=replace(config.networks, ngf=3)))


@pytest.mark.parametrize('kind', ['jsonl', 'csv'])
def test_log_agrees_with_the_checkpoint_it_goes_on_from(config, kind):
    config = replace(config, log=kind, val_epochs=1, save_epochs=1)
    train(replace(config, epochs=1))
    path = runs.Path(config.checkpoints)/f'run/losses.{kind}'
    with open(path, 'a') as file: file.write(Rows(path).path.read_text().splitlines()[-1].replace('3', '4', 1) + '\n4')   # a future that did not happen, and half a line
    train(config, continue_training=True)
    rows = Rows(path).read()
    assert [row['iteration'] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert set(rows[0]) == {'iteration', 'epoch', 'D1', 'D2', 'G1', 'G2', 'L1_1', 'L1_2'}
    assert [row['epoch'] for row in Rows(path.with_name(f'validation.{kind}')).read()] == [1, 2]


def test_keep_and_snapshots(config):
    train(replace(config, epochs=5, save_epochs=1, keep=2, snapshot_steps=3, snapshot_pairs=2, log='none'))
    run = runs.Path(config.checkpoints)/'run'
    assert sorted(p.name for p in run.iterdir()) == ['epoch-0004', 'epoch-0005', 'latest.json', 'snapshots']
    assert [p.name for p in sorted((run/'snapshots').iterdir())] == [f'{i:08d}.jpg' for i in (0, 3, 6, 9, 12, 15)]
    assert Image.open(run/'snapshots/00000003.jpg').size == (5*32, 2*32)


def test_validation_measures_what_it_is_given(config):
    nothing = lambda real, imagined: torch.full((len(real),), 7.)
    config = replace(config, epochs=8, networks=replace(config.networks, learning_rate=0.01))   # G begins at an even grey
    train(replace(config, val_epochs=1, val_limit=2), measures=dict(seven=nothing, pixels=lambda real, imagined: (real*imagined).mean((1, 2, 3))))
    rows = Rows(f'{config.checkpoints}/run/validation.jsonl').read()
    assert [row['seven'] for row in rows] == 8*[7.] and rows[0]['pixels'] != rows[-1]['pixels']


def test_tensorboard(config, tmp_path):
    pytest.importorskip('tensorboard', reason='pip install tensorboard')
    train(replace(config, tracker='tensorboard'))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    file, = (tmp_path/'checkpoints/run').rglob('events.out.tfevents*')
    events = EventAccumulator(str(file))
    events.Reload()
    logged = [event.value for event in events.Scalars('D1')]
    assert logged == pytest.approx([row['D1'] for row in Rows(tmp_path/'checkpoints/run/losses.jsonl').read()], rel=1e-5)
    with pytest.raises(ValueError, match='use one of'): train(replace(config, name='other', tracker='abacus'))


@pytest.mark.skipif(shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_compile_computes_the_same(config):
    config = replace(config, regime='pix2pix', epochs=1, networks=replace(config.networks, dropout=False))
    plain, compiled = make(config).fit(1), make(replace(config, compile=True)).fit(1)
    assert compiled == pytest.approx(plain, rel=1e-3)


CHANGES = dict(regime='fork', phase='val', bgr=True, load_size=40, flip=False, order='serial', limit=4, batch_size=3, epochs=1, seed=1,
               precision='bf16', panel_order='aerial,street,street_seg,aerial_seg',
               direction='g2a', ngf=3, ndf=3, discriminator='pixel', n_layers=2, conditional=False, dropout=False, bias='all',
               use_gan=False, use_l1=False, lambda_l1=50., lambda_segmentation=50., lambda_grads=0.5, real_label=0.8, fake_label=0.1,
               learning_rate=1e-3, beta1=0.6, beta2=0.9, size=64)


def options(config, **changes):
    of_networks = {key: value for key, value in changes.items() if hasattr(config.networks, key)}
    return replace(config, networks=replace(config.networks, **of_networks), **{k: v for k, v in changes.items() if k not in of_networks})


@pytest.mark.parametrize('name', CHANGES)
def test_every_option_that_decides_the_outcome_does(config, name):
    if name == 'phase':
        shutil.rmtree(runs.Path(config.data_root)/'val')
        write_noise(runs.Path(config.data_root)/'val', 13, seed=2)
    if name == 'dropout': config = options(config, size=64)   # at 32 pixels no block is deep enough for it
    plain, changed = make(config), make(options(config, **{name: CHANGES[name]}))
    for trainer in (plain, changed): torch.manual_seed(0); trainer.fit(trainer.train.limit and 2 or (1 if name == 'epochs' and trainer is changed else 2))
    one, other = weights(plain.regime), weights(changed.regime)
    assert one.keys() != other.keys() or any(one[key].shape != other[key].shape for key in one) or differ(one, other)


# --- reading --------------------------------------------------------------------------------------------------------

def test_workers_stay_and_give_the_same(config):
    plain, ahead = build_loader(config), build_loader(replace(config, workers=2))
    for epoch in range(3):
        plain.set_epoch(epoch); ahead.set_epoch(epoch)
        for one, other in zip(plain, ahead, strict=True): assert one.names == other.names and torch.equal(one.source, other.source)
    readers = ahead.reader._iterator._workers
    for batch in ahead: break                                      # leave in the middle
    ahead.set_epoch(1, 1)
    plain.set_epoch(1, 1)
    assert [b.names for b in ahead] == [b.names for b in plain]
    assert ahead.reader._iterator._workers is readers, 'new processes were started'
    assert [(a.names, b.names) for a, b in zip(ahead, ahead)] == [(b.names, b.names) for b in plain], 'two loops at once'


def test_cache_refuses_what_has_changed(config, tmp_path):
    cached = lambda **more: CachedDataset(config.data_root, 'train', size=32, cache=tmp_path/'cache', progress=False, **more)
    cached()
    file = tmp_path/'data/train/03.png'
    for change, word in ((lambda: os.utime(file, (1, 1)), '03.png was changed'), (lambda: file.rename(file.with_name('zz.png')), '03.png is gone'),
                         (lambda: (file.with_name('zz.png').rename(file), shutil.copy(file, file.with_name('new.png'))), 'new.png is new')):
        change()
        with pytest.raises(DataError, match=f'out of date: {word}'): cached()
    file.with_name('new.png').unlink()
    os.utime(file, (1, 1))
    for path in (tmp_path/'cache').iterdir(): path.unlink()
    cached()
    with pytest.raises(DataError, match='panel order'): cached(panel_order='aerial,street,street_seg,aerial_seg')


def test_cache_interrupted_or_impossible_leaves_nothing(config, tmp_path, monkeypatch):
    dataset = CrossViewDataset(config.data_root, size=32)
    def interrupted(*_): raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        reading = iter(range(5))
        patch.setattr(cache, 'read_panels', lambda *a, read=cache.read_panels: read(*a) if next(reading, None) is not None else interrupted())
        with pytest.raises(KeyboardInterrupt): build_cache(dataset, tmp_path/'cache', progress=False)
    assert list((tmp_path/'cache').iterdir()) == []
    with monkeypatch.context() as patch:
        def full(*_): raise OSError(28, 'No space left on device')
        patch.setattr(cache, 'reserve', full)
        with pytest.raises(DataError, match='No space left'): build_cache(dataset, tmp_path/'cache', progress=False)
    assert list((tmp_path/'cache').iterdir()) == []
    Image.new('RGB', (256, 64)).save(tmp_path/'data/train/99.png')
    with pytest.raises(DataError, match='99.png.*64 pixels.*32'): build_cache(CrossViewDataset(config.data_root, size=32), tmp_path/'cache', progress=False)
    assert list((tmp_path/'cache').iterdir()) == []
    (tmp_path/'file').write_text('')
    with pytest.raises(DataError, match='could not be written'): build_cache(dataset, tmp_path/'file', progress=False)


@pytest.mark.parametrize('workers', [0, 2])
def test_training_from_a_cache_is_the_same_training(config, tmp_path, workers):
    plain, cached = make(config), make(replace(config, cache=str(tmp_path/'cache'), workers=workers))
    for trainer in (plain, cached): torch.manual_seed(0); trainer.fit(2)
    assert not differ(weights(plain.regime), weights(cached.regime))
