// The domain XML of a QEMU guest that an experiment compares with: the same kernel, initramfs and devices that Quire's
// own Linux guests have, and for its memory what the host kernel offers. The elements: libvirt.org/formatdomain.html.
#ifndef QUIRE_VMM_LIBVIRT_QEMU_QEMU_DOMAIN_H_
#define QUIRE_VMM_LIBVIRT_QEMU_QEMU_DOMAIN_H_

#include <optional>
#include <string>

#include "base/units.h"

namespace quire {

struct QemuDomain {
  std::string name;
  std::string uuid;
  ByteCount memory;
  int vcpus = 1;
  std::string kernel;  // paths, which QEMU reads: absolute
  std::optional<std::string> initrd = {};
  std::string command_line = {};
  ByteCount balloon = {};  // that it begins with
  bool kvm = false;        // else QEMU emulates the CPU (TCG)
  bool merge = false;      // its memory is offered to the host's same-page merging
  std::string console;     // path of the file that gets what it writes to its serial port
};

// The whole document. What XML cannot hold of a text (control characters) is left out.
std::string DomainXml(const QemuDomain& domain);

// A random one (RFC 9562, version 4).
std::string NewUuid();

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_QEMU_QEMU_DOMAIN_H_
