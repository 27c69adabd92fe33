from nanos2t.apps.cli import main

raise SystemExit(main())
