"""The wheel in a fresh environment: Axolotl trains with it, and uninstalling it leaves nothing."""

import os
import sys
import sysconfig
from pathlib import Path

from benchmarks.hosts.axolotl import Axolotl
from tests.packaging.conftest import Environment, run

FINDERS = "import sys; print([type(finder).__module__ for finder in sys.meta_path].count('otr_plugin.autoload'))"


def lend_axolotl_to(environment: Environment) -> None:
    """Lend the packages of this process's environment, which has Axolotl, to another environment.

    Installing Axolotl again would download gigabytes. Python runs no .pth file of a folder that another .pth file
    names, so the editable plugin in that folder stays unknown, and the wheel's modules are the only ones.
    """
    lender = Path(sysconfig.get_path("purelib"))
    (environment.site_packages / "lent.pth").write_text(f"{lender}\n")
    for name in ("axolotl", "accelerate"):  # `axolotl train` runs `accelerate launch`
        script = (Path(sys.executable).parent / name).read_text().split("\n", 1)[1]
        command = environment.bin / name
        command.write_text(f"#!{environment.python}\n{script}")
        command.chmod(0o755)


def test_axolotl_trains_with_the_installed_wheel(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    environment.install(wheel)  # before Axolotl's packages are lent: pip would find the plugin among them
    lend_axolotl_to(environment)
    module = run(environment.python, "-c", "import otr_plugin; print(otr_plugin.__file__)", folder=tmp_path).strip()
    assert Path(module).parent == environment.site_packages / "otr_plugin"

    axolotl = Axolotl(tmp_path)
    recipe = axolotl.recipe("otr", plugins=["otr"], max_steps=2, save_strategy="steps", save_steps=2)
    env = axolotl.ENV | {"PATH": f"{environment.bin}{os.pathsep}{axolotl.ENV['PATH']}"}
    printed = run(environment.bin / "axolotl", "train", recipe, folder=tmp_path, env=env)
    assert "OTR is active" in printed
    steps = [step for step in axolotl.log_of("otr") if "loss" in step]
    assert len(steps) == 2
    assert all("otr/hit_rate" in step for step in steps)


def test_python_runs_the_autoload_until_the_wheel_is_uninstalled(wheel, tmp_path):
    environment = Environment(tmp_path / "environment")
    start = (environment.python, "-c", FINDERS)  # Python prints an error in a .pth file, and starts all the same
    before = {path.name for path in environment.site_packages.iterdir()}
    environment.install(wheel)
    assert {path.name for path in environment.site_packages.iterdir()} - before == {
        "otr_autoload.pth",
        "otr_plugin",
        f"{'-'.join(wheel.name.split('-')[:2])}.dist-info",
    }
    assert run(*start, folder=tmp_path) == "1\n"
    environment.pip("uninstall", "--quiet", "--yes", "otr-plugin")
    assert {path.name for path in environment.site_packages.iterdir()} == before
    assert run(*start, folder=tmp_path) == "0\n"
