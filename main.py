from so8t_studio.app import main

raise SystemExit(main())
