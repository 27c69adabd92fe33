from nanos2t.cli.main import main

raise SystemExit(main())
