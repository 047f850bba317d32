// A guest that runs, as a domain of libvirt's.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_XML_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_XML_H_

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/units.h"
#include "vmm/pc_options.h"

namespace quire {

struct RunningGuest {
  int number = 0;  // of the run's guests, from 0: libvirt's id is one more
  std::string name = {};
  ByteCount memory = {};
  ByteCount balloon = {};  // that the guest has given back
  int vcpus = 1;
  std::optional<ByteCount> pool_limit = {};
  std::optional<ByteCount> swap_limit = {};
  bool emulated = false;     // by software vCPUs
  bool shares_pages = true;  // that are equal to others
  // A guest with a kernel; null: it runs a program or a workload, which `runs` names as the flag of `quire run`.
  const PcOptions* pc = nullptr;
  std::string command_line = {};  // of the kernel
  std::string runs = {};
};

// The description that the guest was started by, with what is so now in place of what was to be: id, currentMemory, and
// limits that have been changed; all else as it was, what Quire does not know included. Without such a description, one
// that is made of the guest's options. It is valid by libvirt's schema (domain.rng) if what it was started by is.
// Errors: those of DomainDocument::Parse, for a description that is none.
absl::StatusOr<std::string> DomainXml(const RunningGuest& guest);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_XML_H_
