# For `external_plugins: [example_configs/swift/otr.py]`, where OTR_PLUGIN_AUTOLOAD=0 keeps `loss_type: otr` unknown.
from otr_plugin.hosts.swift.adapter import add_loss_type

add_loss_type()
