"""Job files that build a fleet in parts, for schedulers of several machines.

Each part is ``pybuilder fleet build FILE --only K/N`` in the fleet's folder, which all machines share under
one path. A part that is started again goes on where it ended.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

from imgbuilder.fleet.budget import memory_of
from imgbuilder.fleet.hosts import Fleet

_PROCESSORS = 2


def slurm_job(fleet: Fleet, parts: int) -> str:
    """Return a script for sbatch(1): an array of jobs, one for each part."""
    name = _name(fleet.path)
    return (
        "#!/bin/sh\n"
        f"#SBATCH --job-name={name}\n"
        f"#SBATCH --array=1-{parts}\n"
        f"#SBATCH --cpus-per-task={_PROCESSORS}\n"
        f"#SBATCH --mem={_memory(fleet)}M\n"
        "# The folder of the fleet is shared by all nodes, and pybuilder is installed on each.\n"
        f"exec pybuilder fleet build {shlex.quote(str(fleet.path))} "
        f'--jobs {_PROCESSORS} --only "$SLURM_ARRAY_TASK_ID/{parts}"\n'
    )


def kubernetes_job(fleet: Fleet, parts: int, image: str) -> str:
    """Return an indexed Job for kubectl(1), one pod for each part.

    Args:
        fleet: The fleet. Its folder is a volume, claimed under the name of the job.
        parts: The number of parts.
        image: The container image with pybuilder.
    """
    name = _name(fleet.path)
    command = (
        f"exec pybuilder fleet build {shlex.quote(str(fleet.path))} "
        f'--jobs {_PROCESSORS} --only "$((JOB_COMPLETION_INDEX + 1))/{parts}"'
    )
    needs = {"cpu": str(_PROCESSORS), "memory": f"{_memory(fleet)}Mi"}
    container = {
        "name": "pybuilder",
        "image": image,
        "command": ["/bin/sh", "-c", command],
        "resources": {"requests": needs, "limits": {"memory": needs["memory"]}},
        "volumeMounts": [{"name": "fleet", "mountPath": str(fleet.path.parent)}],
    }
    pod = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "fleet", "persistentVolumeClaim": {"claimName": name}}],
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": parts,
            "parallelism": parts,
            "template": {"spec": pod},
        },
    }
    return json.dumps(job, indent=2) + "\n"


def _name(path: Path) -> str:
    """Return a name that both schedulers accept: a label of RFC 1123."""
    return re.sub(r"[^a-z0-9]+", "-", path.stem.lower()).strip("-")[:50] or "fleet"


def _memory(fleet: Fleet) -> int:
    """Return MiB for two builds at a time, each with an appliance."""
    sizes = [memory_of(appliance=True, memsize=host.recipe.settings.get("memsize")) for host in fleet.hosts]
    return _PROCESSORS * max(sizes) >> 20
