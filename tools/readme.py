"README.md from nbs/index.ipynb: `python tools/readme.py` writes it; `readme()` returns its text."
import os
import re
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter

root = Path(__file__).resolve().parent.parent


def readme(notebook=root/'nbs'/'index.ipynb') -> str:
    "The notebook as Markdown, without private cells, its links made to work one folder further up"
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [cell for cell in nb.cells if not re.match(r'#\s*\|\s*hide', cell.source)]
    nb.cells = [_shown(cell) for cell in nb.cells]
    nb.metadata['language_info'] = {'name': 'python'}  # nbdev_clean drops it; code is coloured by it
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'\]\((?!\w+:|#|/)([^)]+)\)', _moved, text)  # [text](link) and ![text](picture)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def _shown(cell):
    "Of a cell whose code nobody need see, the Markdown that it made"
    if cell.cell_type != 'code' or not re.match(r'#\s*\|\s*echo: false', cell.source): return cell
    return nbformat.v4.new_markdown_cell('\n\n'.join(output.data['text/markdown'] for output in cell.outputs if 'text/markdown' in output.get('data', {})))


def _moved(link):
    "The same file, seen from the root of the repository"
    path, hash_, anchor = link[1].partition('#')
    return f"]({os.path.normpath(os.path.join('nbs', path)).replace(os.sep, '/')}{hash_}{anchor})"


if __name__ == '__main__':
    text = readme()
    partial = root/'README.md.partial'
    partial.write_text(text, encoding='utf-8')
    os.replace(partial, root/'README.md')
    print(f'README.md: {len(text.split())} words')
