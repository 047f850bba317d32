#include "guest/swap/testing/nbdkit.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/unique_fd.h"

namespace quire {
namespace {

constexpr char kProgram[] = "/usr/bin/nbdkit";
// A port that was free may be taken by somebody else before nbdkit takes it.
constexpr int kPortsTried = 20;

bool Exists(const std::string& file) {
  struct stat status;
  return stat(file.c_str(), &status) == 0 && status.st_size > 0;
}

}  // namespace

std::string Nbdkit::WhyMissing() {
  if (access(kProgram, X_OK) == 0) return "";
  return absl::StrCat(kProgram, " is missing: apt-get install nbdkit");
}

absl::StatusOr<std::unique_ptr<Nbdkit>> Nbdkit::Start(Transport transport, std::vector<std::string> arguments) {
  // A short path: that of a socket has 107 characters, and Bazel's folders for tests are longer.
  char directory[] = "/tmp/nbdkit-XXXXXX";
  if (mkdtemp(directory) == nullptr) return absl::ErrnoToStatus(errno, "cannot make a folder in /tmp");
  auto server = absl::WrapUnique(new Nbdkit(transport, directory));
  absl::Status status;
  for (int i = 0; i < (transport == Transport::kTcp ? kPortsTried : 1); ++i) {
    if (transport == Transport::kTcp) status = server->ChoosePort();
    if (status.ok()) status = server->Launch(arguments);
    if (status.ok()) return server;
  }
  return status;
}

Nbdkit::~Nbdkit() {
  Kill();
  std::error_code ignored;
  std::filesystem::remove_all(directory_, ignored);
}

std::string Nbdkit::uri() const {
  return transport_ == Transport::kTcp ? absl::StrCat("nbd://127.0.0.1:", port_, "/")
                                       : absl::StrCat("nbd+unix:///?socket=", socket());
}

void Nbdkit::Kill() {
  if (pid_ < 0) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

// The stop is reported once all its threads have stopped; until then one of them may still answer.
void Nbdkit::Freeze() {
  kill(pid_, SIGSTOP);
  siginfo_t stopped;
  while (waitid(P_PID, static_cast<id_t>(pid_), &stopped, WSTOPPED) != 0 && errno == EINTR) {
  }
}
void Nbdkit::Thaw() { kill(pid_, SIGCONT); }

absl::Status Nbdkit::Restart(std::vector<std::string> arguments) {
  Kill();
  return Launch(arguments);
}

absl::Status Nbdkit::ChoosePort() {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (bind(fd.get(), generic, sizeof(address)) != 0 || getsockname(fd.get(), generic, &length) != 0) {
    return absl::ErrnoToStatus(errno, "cannot bind a port of 127.0.0.1");
  }
  port_ = ntohs(address.sin_port);
  return absl::OkStatus();
}

absl::Status Nbdkit::Launch(const std::vector<std::string>& arguments) {
  unlink(socket().c_str());
  unlink(absl::StrCat(directory_, "/pid").c_str());
  std::vector<std::string> words = {kProgram, "--foreground", "--exit-with-parent",
                                    absl::StrCat("--pidfile=", directory_, "/pid")};
  if (transport_ == Transport::kTcp) {
    words.insert(words.end(), {"--ipaddr=127.0.0.1", absl::StrCat("--port=", port_)});
  } else {
    words.push_back(absl::StrCat("--unix=", socket()));
  }
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  // What injected errors make it say is not for the test's log.
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, absl::StrCat(directory_, "/log").c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int error = posix_spawn(&pid_, kProgram, &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    pid_ = -1;
    return absl::ErrnoToStatus(error, absl::StrCat("cannot start ", kProgram));
  }
  return AwaitReady();
}

// It writes its number once it accepts connections.
absl::Status Nbdkit::AwaitReady() {
  const absl::Time deadline = absl::Now() + absl::Minutes(1);
  while (!Exists(absl::StrCat(directory_, "/pid"))) {
    if (waitpid(pid_, nullptr, WNOHANG) == pid_) {
      pid_ = -1;
      return absl::UnavailableError(absl::StrCat("nbdkit ended: ", Log()));
    }
    if (absl::Now() > deadline) return absl::UnavailableError(absl::StrCat("nbdkit did not start: ", Log()));
    absl::SleepFor(absl::Milliseconds(1));
  }
  return absl::OkStatus();
}

std::string Nbdkit::Log() const {
  std::ifstream log(absl::StrCat(directory_, "/log"));
  return std::string(std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>());
}

}  // namespace quire
