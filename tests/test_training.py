"What 09_training should not have to show: kills, full disks, bad files, other precisions, Ctrl-C."
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from crossview_nb import training
from crossview_nb.regime import RegimeConfig
from crossview_nb.runs import PlainProgress, Rows, smoothed, train
from crossview_nb.training import (Callback, Checkpoints, TrainingConfig, Trainer, build_loader, build_regime,
                                   find_checkpoint, load_networks, read_config, written_whole)


@pytest.fixture
def config(tmp_path):
    "A run of two epochs of three batches on noise"
    noise = np.random.default_rng(0)
    for phase, n in (('train', 13), ('val', 3)):
        (tmp_path/'data'/phase).mkdir(parents=True)
        for i in range(n):
            blocks = noise.integers(0, 256, (4, 16, 3), dtype=np.uint8)
            Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(tmp_path/'data'/phase/f'{i}.png')
    return TrainingConfig(name='run', regime='seq', data_root=str(tmp_path/'data'), batch_size=4, epochs=2, workers=0,
                          device='cpu', precision='fp32', checkpoints=str(tmp_path/'checkpoints'),
                          networks=RegimeConfig(size=32, ngf=2, ndf=2))


class StopAt(Callback):
    "Asks the trainer to stop, as Ctrl-C does"
    def __init__(self, iteration): self.iteration = iteration
    def after_step(self, trainer): trainer.stopped = trainer.iteration == self.iteration


def make(config, *callbacks, weights_seed=0):
    regime = build_regime(replace(config, seed=weights_seed))
    return Trainer(regime, build_loader(config), None, callbacks, config.device, config.precision)


def tensors(trainer):
    "Every number that a run has made: weights, statistics, and what Adam remembers"
    found = dict(trainer.regime.state_dict())
    for name, optimizer in trainer.regime.optimizers.items():
        for index, state in optimizer.state_dict()['state'].items():
            found.update({f'{name}/{index}/{key}': value for key, value in state.items()})
    return found


def assert_equal(one, other):
    one, other = tensors(one), tensors(other)
    assert one.keys() == other.keys()
    for name in one: assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize('regime', ['pix2pix', 'fork', 'seq'])
@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
@pytest.mark.parametrize('stop', [1, 3, 4])
def test_resumed_run_equals_uninterrupted_one(config, regime, precision, stop):
    config = replace(config, regime=regime, precision=precision)
    whole = make(config)
    whole.fit(2)
    make(config, Checkpoints(config), StopAt(stop)).fit(2)
    torch.manual_seed(12345)  # what happens in between must not matter
    resumed = make(config, weights_seed=99)  # all must come from the file
    resumed.resume(find_checkpoint(f'{config.checkpoints}/run'))
    assert resumed.iteration == stop
    resumed.fit(2)
    assert_equal(whole, resumed)


def test_seed_fixes_everything(config):
    one, same, other = make(config), make(config), make(config, weights_seed=1)
    for trainer in (one, same, other): torch.manual_seed(7); trainer.fit(1)
    assert_equal(one, same)
    assert not torch.equal(one.regime.G1.encoder[0].convolution.weight, other.regime.G1.encoder[0].convolution.weight)


def test_train_writes_and_goes_on(config):
    trainer = train(config)
    run = find_checkpoint(f'{config.checkpoints}/run').parent
    assert sorted(p.name for p in run.iterdir()) == ['epoch-0002', 'latest.json', 'losses.jsonl', 'validation.jsonl']
    assert read_config(run/'epoch-0002')[0] == config
    with pytest.raises(FileExistsError, match='--continue-training'): train(config)
    more = train(replace(config, epochs=3), continue_training=True)
    assert (trainer.iteration, more.iteration) == (6, 9)
    assert sorted(p.name for p in run.iterdir()) == ['epoch-0002', 'epoch-0003', 'latest.json', 'losses.jsonl', 'validation.jsonl']


def test_latest_by_iterations_replaces_itself(config):
    train(replace(config, save_steps=2, epochs=1))
    run = find_checkpoint(f'{config.checkpoints}/run').parent
    assert sorted(p.name for p in run.iterdir()) == ['epoch-0001', 'latest.json', 'losses.jsonl', 'validation.jsonl']


def test_killed_while_writing_leaves_the_last_checkpoint(config, tmp_path):
    train(replace(config, epochs=1))
    program = f'''
import os, signal
from crossview_nb import training
from crossview_nb.runs import *
from crossview_nb.training import *
from dataclasses import replace
config, _ = read_config(find_checkpoint({f'{config.checkpoints}/run'!r}))
training.torch.save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
train(replace(config, epochs=2), continue_training=True)
'''
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert find_checkpoint(f'{config.checkpoints}/run').name == 'epoch-0001'
    assert train(config, continue_training=True).epoch == 2


def test_interrupt_stops_after_the_step_with_a_checkpoint(config):
    program = f'''
from crossview_nb.regime import RegimeConfig
from crossview_nb.runs import *
from crossview_nb.training import *
config = TrainingConfig(**{dict(config.__dict__, networks=None)!r} | dict(networks=RegimeConfig(size=32, ngf=2, ndf=2),
                        epochs=10**6, picture_seconds=0.2, regime='fork', save_epochs=10**6))
train(config)
'''
    process = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith('epoch'): break  # training has begun
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 0
    assert '--continue-training' in rest
    checkpoint = find_checkpoint(f'{config.checkpoints}/run')
    assert checkpoint.name.startswith('step-')
    assert json.loads((checkpoint/'config.json').read_text())['progress']['iteration'] > 0


def test_full_disk_leaves_nothing_half_written(config, monkeypatch):
    def full(*_, **__): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(training.torch, 'save', full)
    with pytest.raises(OSError, match='No space left'): train(config)
    assert not [p for p in (training.Path(config.checkpoints)/'run').iterdir() if p.suffix != '.jsonl']


def test_folder_that_is_a_file(config):
    training.Path(config.checkpoints).mkdir()
    (training.Path(config.checkpoints)/'run').write_text('')
    with pytest.raises(NotADirectoryError, match='is a file'): train(config)


@pytest.mark.parametrize('damage, message', [
    (lambda c: (c/'G1.safetensors').unlink(), 'is missing'),
    (lambda c: (c/'G1.safetensors').write_bytes(b'no tensors'), 'does not fit'),
    (lambda c: (c/'G1.safetensors').write_bytes((c/'D1.safetensors').read_bytes()), 'does not fit'),
    (lambda c: (c/'config.json').write_text('{'), 'is not a checkpoint'),
    (lambda c: (c/'config.json').write_text('{"training": {"networks": {"colour": 3}}}'), 'is not a checkpoint')])
def test_damaged_checkpoints_are_named(config, damage, message):
    train(replace(config, epochs=1))
    checkpoint = find_checkpoint(f'{config.checkpoints}/run')
    damage(checkpoint)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_networks(build_regime(read_config(checkpoint)[0]), checkpoint)


def test_checkpoints_run_no_code(config, tmp_path):
    train(replace(config, epochs=1))
    checkpoint, witness = find_checkpoint(f'{config.checkpoints}/run'), tmp_path/'witness'
    class Evil:
        def __reduce__(self): return os.mkdir, (str(witness),)
    torch.save(Evil(), checkpoint/'training.pt')
    with pytest.raises(Exception, match='(?i)weights.only'): make(config).resume(checkpoint)
    assert not witness.exists()


def test_missing_checkpoint_says_what_there_is(config, tmp_path):
    with pytest.raises(FileNotFoundError, match='holds none'): find_checkpoint(tmp_path/'nowhere')
    train(replace(config, epochs=1))
    with pytest.raises(FileNotFoundError, match='epoch-0001'): find_checkpoint(f'{config.checkpoints}/run', 7)


def test_too_few_examples_for_one_batch(config):
    with pytest.raises(ValueError, match='do not fill one batch'): train(replace(config, batch_size=32))


@pytest.mark.parametrize('options, message', [
    (dict(batch_size=1), 'bottleneck'), (dict(epochs=0), 'at least 1'), (dict(regime='gan'), 'pix2pix, fork, seq'),
    (dict(name='a/b'), 'without slashes'), (dict(name='..'), 'without slashes'), (dict(panel_order='street,aerial'), 'panel')])
def test_bad_configurations(config, options, message):
    with pytest.raises(ValueError, match=message): replace(config, **options)


def test_bf16_learns_as_fp32_does(config):
    finals = {precision: make(replace(config, regime='fork', precision=precision)).fit(2)['L1'] for precision in ('fp32', 'bf16')}
    assert finals['bf16'] == pytest.approx(finals['fp32'], rel=0.05) and finals['bf16'] != finals['fp32']


def test_smoothed_keeps_the_mean_and_the_last_iteration():
    points = [(i, float(i)) for i in range(1, 1001)]
    short = smoothed(points, most=10)
    assert len(short) == 10 and short[-1] == (1000, 950.5) and short[0] == (100, 50.5)


def test_plain_progress_prints_every_loss(config, capsys):
    make(config, PlainProgress(0.)).fit(1)
    out = capsys.readouterr().out
    for name in ('D1', 'D2', 'G1', 'G2', 'L1_1', 'L1_2', 'pairs/s', 'to go'): assert name in out


def test_written_whole_replaces_and_cleans_up(tmp_path):
    for text in ('first', 'second'):
        with written_whole(tmp_path/'folder') as folder: (folder/'file').write_text(text)
    assert (tmp_path/'folder'/'file').read_text() == 'second'
    with pytest.raises(KeyError):
        with written_whole(tmp_path/'folder') as folder: raise KeyError
    assert [p.name for p in tmp_path.iterdir()] == ['folder'] and (tmp_path/'folder'/'file').read_text() == 'second'
