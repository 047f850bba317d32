// What of a domain's description a guest of Quire's does not have, and what that means for it.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_NOTE_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_NOTE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace quire {

struct DomainNote {
  enum class Kind : uint8_t {
    kIgnored,  // the guest runs without it: nothing that it works with is missing
    kRefused,  // the guest would not be what is described: it is not started
  } kind = Kind::kIgnored;
  std::string path = {};  // of the element, or of its attribute: "/domain/vcpu/@cpuset"
  int line = 0;           // in the file, from 1; 0: it is not there
  std::string why = {};   // what Quire does instead, or what would be right; without a full stop

  friend bool operator==(const DomainNote&, const DomainNote&) = default;
};

absl::string_view Name(DomainNote::Kind kind);

size_t CountRefused(const std::vector<DomainNote>& notes);

// A line for each, those refused first: "  refused  line 12  /domain/devices/hostdev: ...". Printable.
std::string NotesText(const std::vector<DomainNote>& notes);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_NOTE_H_
