# Registers `loss_type: otr` where OTR_PLUGIN_AUTOLOAD=0 is set. In the recipe:
#   external_plugins: [example_configs/swift/otr.py]
from otr_plugin.hosts.swift.adapter import add_loss_type

add_loss_type()
