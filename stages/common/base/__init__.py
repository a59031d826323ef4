"""What every stage uses: errors, files, params, paths, photos."""

import os

# Must stand before torch loads OpenMP. Its threads otherwise spin while they wait for each other, and a core taken by
# another program then stops them all: measured on 2 busy cores, a training step took 4 to 5 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
