// A libvirtd of a test's own, with QEMU, beside the host's or without one.
#ifndef QUIRE_TESTS_LIBVIRT_LIBVIRTD_H_
#define QUIRE_TESTS_LIBVIRT_LIBVIRTD_H_

#include <sys/types.h>

#include <set>
#include <string>
#include <vector>

namespace quire {

// Its socket, settings and state are in a directory of its own, mounted over the host's in a mount namespace of its
// own. QEMU runs as root there. It ends with this object, and with the process that has started it; its domains end
// with this object. Belongs to one thread.
class Libvirtd {
 public:
  Libvirtd();
  ~Libvirtd();
  Libvirtd(const Libvirtd&) = delete;
  Libvirtd& operator=(const Libvirtd&) = delete;

  // Why there is none; empty if it answers. Takes some seconds.
  std::string Start();
  // Ends it, as an upgrade of its package would: domains go on.
  void Stop();

  std::string uri() const;
  const std::string& directory() const { return directory_; }
  // What it has said so far.
  std::string Said() const;

 private:
  void WriteSettings() const;
  // Whether something listens on its socket.
  bool Answers() const;
  void EndDomains() const;

  std::string directory_ = "/tmp/quire-libvirtd-XXXXXX";
  pid_t daemon_ = -1;
  std::set<std::string> cgroups_before_;  // of libvirt's
};

// A kernel that QEMU can start, with modules for a balloon and a shell: the laboratory's, if it has been fetched.
struct LabKernel {
  std::string image = {};
  std::string busybox = {};
  std::vector<std::string> modules = {};  // in the order of loading
};
// Why there is none; empty if there is.
std::string FindLabKernel(LabKernel& kernel);

// Writes an initramfs whose /init loads the modules and then does what `script` says, a shell's, and sleeps.
void WriteInitramfs(const LabKernel& kernel, const std::string& script, const std::string& path);

// A domain of so many MiB that QEMU emulates, with a balloon; without a kernel it stays in its firmware. Its console
// goes to a file.
std::string DomainXml(const std::string& name, int memory_mib, const std::string& kernel, const std::string& initrd,
                      const std::string& console);

}  // namespace quire

#endif  // QUIRE_TESTS_LIBVIRT_LIBVIRTD_H_
