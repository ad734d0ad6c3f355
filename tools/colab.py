"""What a notebook needs to run on Colab: `python tools/colab.py` writes it into every learner and explore notebook.

A badge below the title, and a first cell that installs the package, on Colab only. User, repository and branch stand in settings.ini and
nowhere else.
"""
import json
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BADGE = 'https://colab.research.google.com/assets/colab-badge.svg'
OPENING = '# On Colab the package is not there yet; elsewhere this does nothing.\nimport sys\n'


def settings():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def notebooks():
    "Those that somebody may open on Colab"
    return sorted([*(ROOT/'nbs').glob('[0-9]*.ipynb'), *(ROOT/'nbs'/'explore').glob('*.ipynb')])


def badge(path, cfg):
    "The line below the title"
    where = path.relative_to(ROOT).as_posix()
    return f"[![Open In Colab]({BADGE})](https://colab.research.google.com/github/{cfg['user']}/{cfg['repo']}/blob/{cfg['branch']}/{where})"


def first_cell(path, cfg):
    "The code that installs the package"
    lines = [f"    !pip install -q '{cfg['lib_name']}[notebooks] @ git+https://github.com/{cfg['user']}/{cfg['repo']}'"]
    if path.parent.name == 'explore' or path.stem == '14_widgets':   # Colab shows other people's widgets on request
        lines += ['    from google.colab import output', '    output.enable_custom_widget_manager()']
    return OPENING + "if 'google.colab' in sys.modules:\n" + '\n'.join(lines)


def with_colab(nb, path, cfg):
    "The notebook with badge and first cell as they should be"
    title = nb['cells'][0]
    lines = [line for line in ''.join(title['source']).split('\n') if BADGE not in line]
    while lines and not lines[-1]: lines.pop()
    title['source'] = ('\n'.join([*lines, '', badge(path, cfg)])).splitlines(keepends=True)
    others = [cell for cell in nb['cells'] if not ''.join(cell['source']).startswith(OPENING)]
    old = next((cell for cell in nb['cells'] if ''.join(cell['source']).startswith(OPENING)), {})
    first = dict(cell_type='code', execution_count=None, id=old.get('id', 'on-colab'), metadata={}, outputs=[], source=first_cell(path, cfg).splitlines(keepends=True))
    at = 2 if ''.join(others[1]['source']).startswith('#| default_exp') else 1
    nb['cells'] = [*others[:at], first, *others[at:]]
    return nb


if __name__ == '__main__':
    cfg = settings()
    for path in notebooks():
        before = path.read_text(encoding='utf-8')
        after = json.dumps(with_colab(json.loads(before), path, cfg), indent=1, sort_keys=True, ensure_ascii=False) + '\n'
        if json.loads(after) != json.loads(before):
            path.write_text(after, encoding='utf-8')
            print(f'{path.relative_to(ROOT)}: made ready for Colab')
