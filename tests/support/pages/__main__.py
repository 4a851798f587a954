"""Write the generated pages and parts of pages anew."""

from tests.support.pages import write

write()
