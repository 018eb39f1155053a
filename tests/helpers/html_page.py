"""Parses a page for tests."""

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """The tags, links and ids of a page, and its visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.links, self.ids, self.parts = [], [], [], []
        self.feed(html)
        self.text = re.sub(r"\s+", " ", " ".join(self.parts))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.links.append(value)

    def handle_data(self, data):
        if "style" not in self.tags[-1:]:
            self.parts.append(data)
