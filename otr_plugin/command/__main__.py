from otr_plugin.command.main import main

main()
