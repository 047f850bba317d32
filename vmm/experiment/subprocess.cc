#include "vmm/experiment/subprocess.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/unique_fd.h"
#include "vmm/files.h"

namespace quire {
namespace {

struct Pipe {
  UniqueFd read_end, write_end;
};

absl::StatusOr<Pipe> MakePipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "make a pipe");
  return Pipe{.read_end = UniqueFd(ends[0]), .write_end = UniqueFd(ends[1])};
}

// Reads both to their ends.
void ReadBoth(int out, std::string& out_text, int error, std::string& error_text) {
  pollfd polled[] = {{.fd = out, .events = POLLIN, .revents = 0}, {.fd = error, .events = POLLIN, .revents = 0}};
  std::string* const texts[] = {&out_text, &error_text};
  while (polled[0].fd >= 0 || polled[1].fd >= 0) {
    if (poll(polled, 2, -1) < 0) continue;
    for (int i = 0; i < 2; ++i) {
      if (polled[i].fd < 0 || polled[i].revents == 0) continue;
      char bytes[4096];
      const ssize_t length = read(polled[i].fd, bytes, sizeof bytes);
      if (length > 0) texts[i]->append(bytes, static_cast<size_t>(length));
      if (length == 0 || (length < 0 && errno != EINTR)) polled[i].fd = -1;
    }
  }
}

// What the program said, on one line; what it ended with if it said nothing.
std::string Reason(int status, absl::string_view complaint) {
  const std::string said = absl::StrReplaceAll(absl::StripAsciiWhitespace(complaint), {{"\n", "; "}});
  if (!said.empty()) return said;
  return WIFSIGNALED(status) ? absl::StrCat("it was ended by signal ", WTERMSIG(status))
                             : absl::StrCat("it ended with status ", WEXITSTATUS(status));
}

}  // namespace

absl::StatusOr<std::string> RunProgram(const std::vector<std::string>& words, absl::string_view input) {
  absl::StatusOr<Pipe> in = MakePipe(), out = MakePipe(), error = MakePipe();
  for (const auto* made : {&in, &out, &error}) {
    if (!made->ok()) return made->status();
  }
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in->read_end.get(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, out->write_end.get(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, error->write_end.get(), STDERR_FILENO);
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int failed = posix_spawnp(&child, arguments[0], &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) {
    return absl::FailedPreconditionError(absl::StrCat("cannot run ", words[0], " (", std::strerror(failed), ")"));
  }
  in->read_end.reset();
  out->write_end.reset();
  error->write_end.reset();
  // One that ends without reading: its status says why.
  const auto before = signal(SIGPIPE, SIG_IGN);
  (void)WriteAll(in->write_end.get(), input);
  signal(SIGPIPE, before);
  in->write_end.reset();
  std::string text, complaint;
  ReadBoth(out->read_end.get(), text, error->read_end.get(), complaint);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return text;
  return absl::InternalError(absl::StrCat(words[0], " failed: ", Reason(status, complaint)));
}

}  // namespace quire
