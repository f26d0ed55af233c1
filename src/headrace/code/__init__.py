"""First-party code: which modules a flow reaches, how they travel, and how they are found where they arrive.

First-party is what is neither of Python nor installed from elsewhere: the modules beside a script or notebook, the
packages of a project, and what is installed in editable mode. It travels with the flow as sources.

* ``places`` tells which modules are first-party, and where they lie;
* ``imports`` reads the names of imported modules off sources and code objects;
* ``units`` reads one module or package, whole, and follows what it imports;
* ``bundle`` puts units into one object, named by its content;
* ``unpacked`` keeps bundles as folders of this host;
* ``space`` makes a bundle's modules those that this process imports;
* ``loaded`` knows what modules in memory were loaded from;
* ``fresh`` loads anew what was edited since it was loaded;
* ``references`` names functions and classes of modules, so that pickles need not hold them;
* ``tracked`` gives classes that travel by value an identity that depends on their content.
"""
