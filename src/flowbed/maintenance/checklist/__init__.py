"""The operator's checklist: walks the chain from sources to published snapshots, stage by stage, and changes nothing.

To add a stage, write a function with `@stage(name, how=..., unused=...)` in one of the modules imported here.
"""

# Imported so that they register their stages, in the order of the data flow.
from flowbed.maintenance.checklist import project, work, index, publications  # noqa: F401, I001
from flowbed.maintenance.checklist.items import Checklist, ChecklistContext, Item, walk

__all__ = ["Checklist", "ChecklistContext", "Item", "walk"]
