// A domain of libvirt's as the guest that Quire makes of it.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_GUEST_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_GUEST_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/libvirt/domain/document.h"
#include "vmm/libvirt/domain/note.h"
#include "vmm/pc_options.h"

namespace quire {

struct DomainGuest {
  std::string name = {};  // printable
  ByteCount memory = {};  // whole pages
  int vcpus = 1;          // that it begins with
  // Its name, kernel, disks, console, and its balloon, of memory - currentMemory. Without domain_xml.
  PcOptions pc = {.kernel = ""};
  std::optional<ByteCount> pool_limit = {};  // memtune/hard_limit
  std::optional<ByteCount> swap_limit = {};  // memtune/swap_hard_limit, less hard_limit
  bool huge_pages = false;                   // memoryBacking/hugepages
  bool shares_pages = true;                  // unless memoryBacking/nosharepages
  bool locked = false;                       // memoryBacking/locked: all of its memory stays in memory
};

struct DomainReading {
  DomainGuest guest = {};
  std::vector<DomainNote> notes = {};  // in the order of the file

  bool refused() const { return CountRefused(notes) > 0; }
};

// What a document says, element by element. Pure: no file that it names is looked at. What libvirt would take and Quire
// cannot do is a note; an error is what no domain has. Where something is refused, the guest is what could be read.
// Errors: DomainError.
absl::StatusOr<DomainReading> ReadDomain(const DomainDocument& document);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_GUEST_H_
