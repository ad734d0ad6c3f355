"Everything the package says of itself stands in settings.ini, which nbdev reads too; here it is only handed on."
from configparser import ConfigParser
from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

extras = {key.removesuffix('_requirements'): value.split()
          for key, value in cfg.items() if key.endswith('_requirements')}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    keywords=cfg['keywords'].split(),
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split()},
    # The sample pairs stand beside the notebooks in the checkout and travel inside the package in the wheel.
    packages=['crossview_nb', 'crossview_nb.explore', 'crossview_nb.data_samples'],
    package_dir={'crossview_nb.data_samples': 'data_samples'},
    package_data={'crossview_nb.data_samples': [f'**/*.{kind}' for kind in
                                                ('md', 'csv', 'json', 'png', 'jpg', 'safetensors')]},
    include_package_data=False,
    zip_safe=False,
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Education',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
)
