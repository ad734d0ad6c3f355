"""The study of issue 6: `python tools/study.py WORK` trains and measures every run that is not done yet; `--list` says what there is.

Runs are trained one after the other, in order of worth: those whose weights may ship, the remaining seeds, the ablations. WORK
holds the rendered pairs (80 MB) and the checkpoints. Interrupt it as you like: a run goes on from its last checkpoint, and one whose
figures lie in nbs/study/results is not repeated. Words after WORK pick runs by their names: `python tools/study.py WORK fork-a2g`.
A run computes on one core, so that its numbers don't depend on how many there are: start the script once a core, and the copies
share the runs among themselves. Nothing else should be timed while it runs.
"""
import argparse
import fcntl
import json
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from crossview_nb.data import CrossViewDataset, CrossViewLoader
from crossview_nb.evaluation import evaluate
from crossview_nb.pairs import write_toytown
from crossview_nb.regime import RegimeConfig
from crossview_nb.results import load_generator
from crossview_nb.runs import train
from crossview_nb.training import TrainingConfig

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'nbs'/'study'/'results'
SEED = 4200                                    # of the towns: neither the samples', nor the judges', nor the tests'
PAIRS = dict(train=3000, val=200, test=1000)   # runs are chosen on val; test gives the figures
WIDTH, EPOCHS, BATCH, RATE = 20, 20, 16, 4e-4  # the same number of generator updates for all
# No random crop, but for one comparison: it shifts both views by up to an eighth of the picture. How far up or down an aerial view was
# shifted can't be seen in it, so the street's horizon could no longer be known, and what is uncertain is drawn blurred.
REGIMES, DIRECTIONS, SEEDS = ('pix2pix', 'fork', 'seq'), ('a2g', 'g2a'), range(3)


def plan():
    "name -> (fields of TrainingConfig, fields of RegimeConfig), in the order in which they are run"
    runs = {}
    def add(regime, direction, seed, what='', training={}, networks={}):
        runs['-'.join(filter(None, (regime, direction, what, f'seed{seed}')))] = (
            dict(regime=regime, seed=seed, **training), dict(direction=direction, **networks))
    for seed in SEEDS:
        for direction in DIRECTIONS:
            for regime in REGIMES: add(regime, direction, seed)
    # The paper's critic (n = 3) looks at a quarter of a picture's side; of one of 64 pixels it sees all. So the regimes meet a second time
    # with a critic of two layers, which sees half; and the widgets get one of every depth.
    add('fork', 'a2g', 0, 'n1', networks=dict(n_layers=1))
    add('fork', 'a2g', 0, 'n4', networks=dict(n_layers=4))
    for seed in SEEDS:
        for direction in DIRECTIONS:
            for regime in REGIMES:
                timeline = dict(snapshot_steps=25, snapshot_pairs=8) if (regime, direction, seed) == ('fork', 'a2g', 0) else {}
                add(regime, direction, seed, 'n2', training=timeline, networks=dict(n_layers=2))
    for width in (16, 32): add('fork', 'a2g', 0, f'width{width}', networks=dict(ngf=width, ndf=width))
    for seed in SEEDS:
        for weight in (0., 10.): add('fork', 'a2g', seed, f'segmentation{weight:g}', networks=dict(lambda_segmentation=weight))
        for weight in (0., 1.): add('seq', 'a2g', seed, f'feedback{weight:g}', networks=dict(lambda_grads=weight))
        add('pix2pix', 'a2g', seed, 'l1-only', networks=dict(use_gan=False))
        add('pix2pix', 'a2g', seed, 'gan-only', networks=dict(use_l1=False))
        add('fork', 'a2g', seed, 'crop', training=dict(load_size=72))   # the paper's way
        # fewer pairs, as many updates
        for pairs in (100, 300, 1000): add('fork', 'a2g', seed, f'pairs{pairs}', training=dict(pairs=pairs))
    return runs


def config_of(name, work):
    "The configuration of a run"
    training, networks = (dict(part) for part in plan()[name])
    pairs = training.pop('pairs', PAIRS['train'])
    training.setdefault('load_size', 64)
    rounds = PAIRS['train']//pairs   # through fewer pairs more often: the updates are as many
    return TrainingConfig(name=name, data_root=str(work/'data'), phase='train' if rounds == 1 else f'first{pairs}', batch_size=BATCH, epochs=EPOCHS*rounds,
                          workers=0, save_epochs=EPOCHS*rounds, val_epochs=rounds, save_steps=500, keep=1,
                          cache=str(work/'cache'), checkpoints=str(work/'checkpoints'), **training,
                          networks=RegimeConfig(**dict(dict(size=64, ngf=WIDTH, ndf=WIDTH, learning_rate=RATE), **networks)))


def render(work):
    "Every pair of the study, and folders with the first so many"
    for split, n in PAIRS.items(): write_toytown(work/'data', n, size=64, seed=SEED, split=split)
    for pairs in (100, 300, 1000):
        few = work/'data'/f'first{pairs}'
        few.mkdir(exist_ok=True)
        for path in sorted((work/'data'/'train').glob('*.png'))[:pairs]:
            if not (few/path.name).exists(): os.link(path, few/path.name)


def measure(config, phase, norm):
    "All offline measures of a run on a phase"
    dataset = CrossViewDataset(config.data_root, phase, config.networks.direction, 64, augment=False)
    generator = load_generator(Path(config.checkpoints)/config.name)
    found = evaluate(generator, CrossViewLoader(dataset, 10, 'serial'), norm, dropout=norm == 'batch', progress=False)
    return json.loads(found.to_json())


@contextmanager
def claimed(path):
    "Yields whether this process, and no other, holds the file"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w') as file:
        try: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError: yield False
        else: yield True


def run(name, work):
    "Train, measure, and write down"
    config, begin = config_of(name, work), time.perf_counter()
    trainer = train(config, continue_training=True)
    figures = {f'{phase}, {norm}': measure(config, phase, norm) for phase, norm in (('val', 'running'), ('test', 'running'), ('test', 'batch'))}
    RESULTS.mkdir(parents=True, exist_ok=True)
    partial = RESULTS/f'{name}.partial'
    partial.write_text(json.dumps(dict(name=name, config=asdict(config), iterations=trainer.iteration, seconds=round(time.perf_counter() - begin),
                                       precision=trainer.precision, torch=torch.__version__, figures=figures), indent=1), encoding='utf-8')
    os.replace(partial, RESULTS/f'{name}.json')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('work', type=Path, help='folder for pairs and checkpoints')
    parser.add_argument('names', nargs='*', help='runs whose names begin with one of these; all unless given')
    parser.add_argument('--list', action='store_true', help='say which runs there are and which are done')
    chosen = parser.parse_args()
    names = [name for name in plan() if not chosen.names or name.startswith(tuple(chosen.names))]
    if chosen.list: print(*(f'{"done" if (RESULTS/f"{name}.json").exists() else "    "}  {name}' for name in names), sep='\n')
    else:
        torch.set_num_threads(1)
        with claimed(chosen.work/'locks'/'data') as mine:
            if not mine: sys.exit('Another copy is rendering the pairs: start this one when it is done')
            render(chosen.work)
        for name in names:
            with claimed(chosen.work/'locks'/name) as mine:
                if mine and not (RESULTS/f'{name}.json').exists(): run(name, chosen.work)
