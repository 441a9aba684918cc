"""Looks at every link within the site that was built: a dead one fails the build."""

import html.parser
import pathlib
import urllib.parse


class _Page(html.parser.HTMLParser):
    """What a page links to, and what of it can be linked to."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == 'id':
                self.anchors.add(value)
            elif name in ('href', 'src') and value is not None:
                self.targets.append(value)


def dead(site: pathlib.Path) -> list[str]:
    """Return 'page -> target' of each link within a folder of HTML that leads nowhere."""
    pages = {path.resolve(): _Page(path) for path in site.rglob('*.html')
             if '_static' not in path.parts}  # the theme's own are templates
    found = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or parts.netloc or target in ('#', ''):
                continue
            other = (path.parent / urllib.parse.unquote(parts.path)).resolve() \
                if parts.path else path
            anchor = urllib.parse.unquote(parts.fragment)
            if not other.exists() or anchor and other in pages and \
                    anchor not in pages[other].anchors:
                found.append(f'{path.relative_to(site.resolve())} -> {target}')
    return sorted(set(found))


def check(app, error) -> None:
    """Fail a finished build of HTML that has dead links."""
    if error is None and app.builder.format == 'html':
        found = dead(pathlib.Path(app.outdir))
        if found:
            raise ValueError(f'{len(found)} dead links: ' + '; '.join(found[:10]))
