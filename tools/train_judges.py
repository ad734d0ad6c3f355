"""The judges of data_samples/judges: `python tools/train_judges.py WORK` renders their towns, trains all four, scores and saves them.

WORK is a folder for 8,000 rendered pairs (150 MB) and checkpoints. Interrupt it as you like: what is rendered stays, and training
goes on after its last whole epoch. Names after WORK train those judges only: `python tools/train_judges.py WORK street-scene`.
"""
import argparse
import os
import time
from pathlib import Path

import torch

from crossview_nb.judges import JUDGES, judge_card, load_judge, read_towns, save_judge, score_judge, train_judge
from crossview_nb.pairs import write_toytown

ROOT = Path(__file__).resolve().parent.parent
SEED = 7100                          # of the towns; the samples have 0, the tests other numbers again
PAIRS = dict(train=6000, test=1000)  # the test towns teach nothing: they give the scores on the cards
SETTINGS = {'scene': dict(epochs=30, batch_size=32, learning_rate=4e-3, weight_decay=.02, seed=0),
            'segmenter': dict(epochs=14, batch_size=32, learning_rate=4e-3, weight_decay=.02, seed=0)}

README = """# Judges

Small networks that look at a picture of ToyTown and say what they see; `crossview_nb.judges.load_judge(name)` reads them.
Made by `python tools/train_judges.py WORK`: {train:,} pairs at 64 pixels to learn from and {test:,} others for the scores below, both
rendered by `write_toytown` with seed {seed} (splits `train` and `test`), which the sample pairs and the project's tests never use.
Weights are float16; the scores are those of the file as it lies here. Each has a card, `NAME.json`, with its settings and all its scores.

| judge | parameters | file | scores on {test:,} towns that it has never seen |
|---|---|---|---|
{rows}
"""


def train(name, work):
    "One judge, from pictures to files"
    view, kind = name.split('-')
    towns = read_towns(work/'train', view, PAIRS['train'])
    begin = time.process_time()
    judge = train_judge(name, towns, checkpoint=work/f'{name}.pt', progress=False, **SETTINGS[kind])
    spent = time.process_time() - begin
    made = dict(command=f'python tools/train_judges.py WORK {name}', settings=SETTINGS[kind], torch=torch.__version__,
                data=dict(made_by='write_toytown', size=64, seed=SEED, **PAIRS), processor_seconds=round(spent))
    save_judge(judge, work/'judges', made)
    kept = load_judge(name, work/'judges')      # what the rounding to half precision has left is what gets scored
    made['scores'] = {key: round(value, 4) for key, value in score_judge(kept, read_towns(work/'test', view, PAIRS['test'])).items()}
    save_judge(judge, ROOT/'data_samples'/'judges', made)
    print(f"{name}: {spent:.0f} s of processor time, {made['scores']}", flush=True)


def write_readme(folder):
    "A table of the cards that are there"
    rows = []
    for name in JUDGES:
        if not (folder/f'{name}.json').exists(): continue
        card = judge_card(name, folder)
        scores = ', '.join(f'{key} {value:.3f}' for key, value in card['scores'].items())
        rows.append(f"| `{name}` | {card['parameters']:,} | {(folder/f'{name}.safetensors').stat().st_size/1000:.0f} kB | {scores} |")
    partial = folder/'README.md.partial'
    partial.write_text(README.format(seed=SEED, rows='\n'.join(rows), **PAIRS), encoding='utf-8')
    os.replace(partial, folder/'README.md')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work', type=Path, help='folder for rendered pairs and checkpoints')
    parser.add_argument('names', nargs='*', metavar='NAME', help=f"which judges: {', '.join(JUDGES)}; all of them if none is named")
    options = parser.parse_args()
    names = options.names or JUDGES
    if unknown := set(names) - set(JUDGES): parser.error(f"there is no judge {', '.join(sorted(unknown))}; there are {', '.join(JUDGES)}")
    for split, n in PAIRS.items(): write_toytown(options.work, n, size=64, seed=SEED, split=split, progress=False)
    for name in names: train(name, options.work)
    write_readme(ROOT/'data_samples'/'judges')
