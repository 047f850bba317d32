#include "tests/libvirt/libvirtd.h"

#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/check.h"
#include "vmm/boot/cpio.h"

namespace quire {
namespace {

namespace fs = std::filesystem;

constexpr char kDaemon[] = "/usr/sbin/libvirtd", kQemu[] = "/usr/bin/qemu-system-x86_64";
constexpr absl::Duration kPatience = absl::Seconds(30);

// What it would share with the host's own, and its names in the directory. All of /run, for /run/libvirt may not be
// there.
struct Place {
  const char* host;
  const char* own;
};
constexpr Place kPlaces[] = {{"/run", "run"},
                             {"/etc/libvirt", "etc"},
                             {"/var/lib/libvirt", "lib"},
                             {"/var/cache/libvirt", "cache"},
                             {"/var/log/libvirt", "log"}};

std::string Contents(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

// The cgroups that libvirt makes for all its domains, with version 1 and without systemd, and leaves there.
std::set<std::string> LibvirtsCgroups() {
  std::set<std::string> found;
  std::error_code error;
  for (const auto& controller : fs::directory_iterator("/sys/fs/cgroup", error)) {
    const fs::path cgroup = controller.path() / "machine";
    if (fs::exists(cgroup, error)) found.insert(cgroup);
  }
  return found;
}

// All that the daemon's process needs, put together before it is forked: this one may have threads.
struct Start {
  std::vector<std::pair<std::string, std::string>> mounts;  // what, and over what
  std::string said, settings, pid_file;
};

[[noreturn]] void BeLibvirtd(const Start& start) {
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  const int said = open(start.said.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(said, STDOUT_FILENO);
  dup2(said, STDERR_FILENO);
  if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) _exit(1);
  for (const auto& [own, host] : start.mounts) {
    if (mount(own.c_str(), host.c_str(), nullptr, MS_BIND, nullptr) != 0) _exit(1);
  }
  // Where controllers are version 1's, a second version's tree has none, and libvirt 9 stumbles over that.
  umount2("/sys/fs/cgroup/unified", MNT_DETACH);
  execl(kDaemon, "libvirtd", "-f", start.settings.c_str(), "-p", start.pid_file.c_str(), nullptr);
  _exit(1);
}

void WaitFor(pid_t process) {
  while (waitpid(process, nullptr, 0) < 0 && errno == EINTR) {
  }
}

}  // namespace

Libvirtd::Libvirtd() : cgroups_before_(LibvirtsCgroups()) {
  QUIRE_CHECK(mkdtemp(directory_.data()) != nullptr);
  QUIRE_CHECK(chmod(directory_.c_str(), 0755) == 0);
}

Libvirtd::~Libvirtd() {
  Stop();
  EndDomains();
  std::error_code error;
  for (const std::string& cgroup : LibvirtsCgroups()) {
    if (!cgroups_before_.contains(cgroup)) fs::remove(cgroup, error);
  }
  fs::remove_all(directory_, error);
}

std::string Libvirtd::uri() const { return absl::StrCat("qemu+unix:///system?socket=", directory_, "/libvirt-sock"); }

std::string Libvirtd::Said() const { return Contents(directory_ + "/said"); }

std::string Libvirtd::Start() {
  if (geteuid() != 0) return "a libvirtd of its own takes root";
  for (const char* program : {kDaemon, kQemu}) {
    if (access(program, X_OK) != 0) {
      return absl::StrCat("there is no ", program, ": install libvirt-daemon-system and qemu-system-x86");
    }
  }
  WriteSettings();
  struct Start start = {.mounts = {},
                        .said = directory_ + "/said",
                        .settings = directory_ + "/libvirtd.conf",
                        .pid_file = directory_ + "/pid"};
  for (const Place& place : kPlaces) start.mounts.emplace_back(absl::StrCat(directory_, "/", place.own), place.host);
  daemon_ = fork();
  QUIRE_CHECK(daemon_ >= 0);
  if (daemon_ == 0) BeLibvirtd(start);
  for (const absl::Time end = absl::Now() + kPatience; absl::Now() < end; absl::SleepFor(absl::Milliseconds(50))) {
    if (waitpid(daemon_, nullptr, WNOHANG) == daemon_) {
      daemon_ = -1;
      return "libvirtd has ended: " + Said();
    }
    if (Answers()) return "";
  }
  return "libvirtd does not answer: " + Said();
}

void Libvirtd::Stop() {
  if (daemon_ <= 0) return;
  kill(daemon_, SIGTERM);
  WaitFor(daemon_);
  daemon_ = -1;
}

void Libvirtd::WriteSettings() const {
  for (const Place& place : kPlaces) fs::create_directory(absl::StrCat(directory_, "/", place.own));
  fs::create_directory(directory_ + "/run/libvirt");
  std::ofstream(directory_ + "/libvirtd.conf") << "unix_sock_dir = \"" << directory_ << "\"\n"
                                               << "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n"
                                               << "log_outputs = \"3:file:" << directory_ << "/said\"\n";
  std::ofstream(directory_ + "/etc/qemu.conf") << "user = \"root\"\ngroup = \"root\"\nsecurity_driver = \"none\"\n"
                                               << "stdio_handler = \"file\"\ncgroup_controllers = [ \"memory\" ]\n";
}

bool Libvirtd::Answers() const {
  const std::string path = directory_ + "/libvirt-sock";
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  QUIRE_CHECK(path.size() < sizeof(address.sun_path));
  std::memcpy(address.sun_path, path.c_str(), path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool answers = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0;
  close(fd);
  return answers;
}

// Each has the number of its process in a file beside its state.
void Libvirtd::EndDomains() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ + "/run/libvirt/qemu", error)) {
    pid_t process = 0;
    if (entry.path().extension() != ".pid" || !absl::SimpleAtoi(Contents(entry.path()), &process)) continue;
    // Only one that is QEMU, and has to do with this directory.
    if (!absl::StrContains(Contents(absl::StrCat("/proc/", process, "/cmdline")), "qemu")) continue;
    kill(process, SIGKILL);
    for (int i = 0; i < 500 && kill(process, 0) == 0; ++i) absl::SleepFor(absl::Milliseconds(10));
  }
}

std::string FindLabKernel(LabKernel& kernel) {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const passwd* const user = getpwuid(geteuid());
  const std::string lab = absl::StrCat(cache != nullptr  ? cache
                                       : user != nullptr ? absl::StrCat(user->pw_dir, "/.cache")
                                                         : "",
                                       "/quire/lab");
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(lab, error)) {
    const std::string folder = entry.path();
    LabKernel found = {.image = folder + "/vmlinuz", .busybox = folder + "/busybox"};
    for (const char* module : {"modules/virtio_ring", "modules/virtio", "modules/virtio_pci_modern_dev",
                               "modules/virtio_pci_legacy_dev", "modules/virtio_pci", "guest_modules/virtio_balloon"}) {
      found.modules.push_back(absl::StrCat(folder, "/", module, ".ko"));
    }
    const auto there = [&](const std::string& path) { return fs::exists(path, error); };
    if (there(found.image) && there(found.busybox) && std::all_of(found.modules.begin(), found.modules.end(), there)) {
      kernel = found;
      return "";
    }
  }
  return absl::StrCat("there is no kernel in ", lab, ": `tools/dev lab true` fetches one");
}

void WriteInitramfs(const LabKernel& kernel, const std::string& script, const std::string& path) {
  std::string init =
      "#!/bin/busybox sh\nB=/bin/busybox\n$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t tmpfs t "
      "/tmp\n";
  std::vector<std::pair<std::string, std::string>> files = {{"bin/busybox", Contents(kernel.busybox)}};
  for (const std::string& module : kernel.modules) {
    const std::string name = fs::path(module).filename();
    files.emplace_back("modules/" + name, Contents(module));
    absl::StrAppend(&init, "$B insmod /modules/", name, "\n");
  }
  absl::StrAppend(&init, "echo ready\n", script, "\nwhile :; do $B sleep 1000; done\n");
  files.emplace_back("init", init);
  CpioWriter cpio;
  for (const char* folder : {"bin", "dev", "modules", "proc", "sys", "tmp"}) cpio.AddFolder(folder);
  cpio.AddCharacterDevice("dev/console", 5, 1, 0600);
  for (const auto& [name, content] : files) {
    cpio.AddFile(name, absl::MakeSpan(reinterpret_cast<const std::byte*>(content.data()), content.size()), 0755);
  }
  const std::vector<std::byte> archive = std::move(cpio).Finish();
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(archive.data()), static_cast<std::streamsize>(archive.size()));
}

std::string DomainXml(const std::string& name, int memory_mib, const std::string& kernel, const std::string& initrd,
                      const std::string& console) {
  const std::string boot = kernel.empty() ? ""
                                          : absl::StrCat("<kernel>", kernel, "</kernel><initrd>", initrd,
                                                         "</initrd><cmdline>console=ttyS0 quiet</cmdline>");
  return absl::StrCat(
      "<domain type='qemu'><name>", name, "</name><memory unit='MiB'>", memory_mib,
      "</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type>", boot,
      "</os><features><acpi/></features><devices><emulator>", kQemu, "</emulator><serial type='file'><source path='",
      console, "'/></serial><controller type='usb' model='none'/><memballoon model='virtio'/></devices></domain>");
}

}  // namespace quire
