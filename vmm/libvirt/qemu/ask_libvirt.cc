#include "vmm/libvirt/qemu/ask_libvirt.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "base/unique_fd.h"
#include "vmm/files.h"
#include "vmm/libvirt/connection.h"

namespace quire {
namespace {

constexpr absl::string_view kAnswer = "answer ", kComplaint = "complaint ";

absl::StatusOr<std::string> AskHere(const std::string& uri) {
  const absl::StatusOr<std::unique_ptr<LibvirtConnection>> libvirt = OpenLibvirt(uri, LibvirtAccess::kReadWrite);
  if (!libvirt.ok()) return libvirt.status();
  return (*libvirt)->Capabilities();
}

[[noreturn]] void BeAsker(const std::string& uri, int fd) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const absl::StatusOr<std::string> said = AskHere(uri);
  const bool told =
      WriteAll(fd, said.ok() ? absl::StrCat(kAnswer, *said) : absl::StrCat(kComplaint, said.status().message()));
  _exit(told ? 0 : 1);
}

std::string ReadToEnd(int fd) {
  std::string text;
  char bytes[4096];
  for (;;) {
    const ssize_t length = read(fd, bytes, sizeof bytes);
    if (length < 0 && errno == EINTR) continue;
    if (length <= 0) return text;
    text.append(bytes, static_cast<size_t>(length));
  }
}

}  // namespace

absl::StatusOr<std::string> AskLibvirt(const std::string& uri) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return absl::ErrnoToStatus(errno, "make a pipe");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t child = fork();
  if (child < 0) return absl::ErrnoToStatus(errno, "start a process that asks libvirt");
  if (child == 0) BeAsker(uri, write_end.get());
  write_end.reset();
  const std::string said = ReadToEnd(read_end.get());
  while (waitpid(child, nullptr, 0) < 0 && errno == EINTR) {
  }
  absl::string_view text = said;
  if (absl::ConsumePrefix(&text, kAnswer)) return std::string(text);
  if (absl::ConsumePrefix(&text, kComplaint)) return absl::FailedPreconditionError(text);
  return absl::FailedPreconditionError(absl::StrCat("who asked the libvirt at ", uri, " died of it"));
}

}  // namespace quire
