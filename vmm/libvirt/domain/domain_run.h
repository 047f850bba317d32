// A run of the guest that a domain describes.
#ifndef QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_RUN_H_
#define QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_RUN_H_

#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/options.h"

namespace quire {

// The pool that a guest of this memory needs for all of it to stay in memory: reclaim begins when free memory falls
// below the high watermark, at most 1/128 of the pool and 17 MiB, and tables lie in it too.
ByteCount PoolForLocked(ByteCount memory);

// What the domain says, with what the flags of `quire run` say besides; `given` has the names of those that were given.
// They say how the guest is run (the pool, swap, how long); what the guest is, the domain says alone.
// Errors: InvalidArgument: flags contradict the domain, or exclude each other.
absl::StatusOr<RunOptions> RunOptionsOf(const DomainGuest& guest, const std::string& xml,
                                        const std::set<std::string>& given);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_DOMAIN_DOMAIN_RUN_H_
