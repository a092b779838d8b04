"""A Python whose imports are done: commands that shells start begin in it at once, each in a process of its own.

`python tests/warm_python.py SOCKET MODULE...` imports the modules, and then waits. The programs that `programs` writes
ask it for a copy of itself, which runs what they are called with: in their folder, with their environment and streams.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import traceback

_CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    message = json.dumps([{words!r} + sys.argv[1:], os.getcwd(), dict(os.environ)])
    socket.send_fds(server, [message.encode()], [0, 1, 2])
    sys.exit(int(server.recv(16) or 1))
"""


def programs(folder, path):
    """Writes `python` and `sqloss`, for the PATH.

    Args:
        path: of the socket.
    """
    folder.mkdir()
    for name, words in (("python", []), ("sqloss", ["-m", "sqloss_plugins"])):
        program = folder / name
        program.write_text(_CLIENT.format(python=sys.executable, path=str(path), words=words))
        program.chmod(0o755)


def _become(message, streams):
    words, folder, environment = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.modules.pop(words[1], None)
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)  # to take all modules down again would need two seconds


def _exit_status(process, client):
    """Of a process that is killed when its client is gone."""
    ended = os.pidfd_open(process)
    ready, _, _ = select.select([client, ended], [], [])
    if ended not in ready:
        os.killpg(process, signal.SIGKILL)
    os.close(ended)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def serve(path, modules):
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # what is shared with the copies stays shared
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.bind(path)
        server.listen()
        print("ready", flush=True)
        while True:
            client, _ = server.accept()
            message, streams, _, _ = socket.recv_fds(client, 2**20, 3)
            process = os.fork()
            if process == 0:
                server.close()
                client.close()
                return _become(message, streams)
            os.setpgid(process, process)  # here, so that it is done when the process is to be killed
            for stream in streams:
                os.close(stream)
            with client:
                status = _exit_status(process, client)
                with contextlib.suppress(BrokenPipeError):
                    client.send(str(status if status >= 0 else 128 - status).encode())


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
