"""Take widget views out of stored outputs: `python tools/without_views.py NOTEBOOK...`.

A view is an address in a kernel that is gone: a reader of the stored notebook would see an error in its place. The still picture
beside each widget stays. Run it after a notebook with widgets was run and saved.
"""
import json
import sys
from pathlib import Path

VIEW = 'application/vnd.jupyter.widget-view+json'


def strip(path):
    "True if there was something to take out"
    text = path.read_text(encoding='utf-8')
    nb = json.loads(text)
    for cell in nb['cells']:
        if 'outputs' in cell: cell['outputs'] = [output for output in cell['outputs'] if VIEW not in output.get('data', {})]
    nb['metadata'].pop('widgets', None)
    changed = json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n'
    if json.loads(changed) == json.loads(text): return False
    path.write_text(changed, encoding='utf-8')
    return True


if __name__ == '__main__':
    for name in sys.argv[1:]:
        if strip(Path(name)): print(f'{name}: views taken out')
