// Domains of libvirt's on the command line: `quire run --domain`, and `quire domain-xml`.
#ifndef QUIRE_VMM_DOMAIN_COMMAND_H_
#define QUIRE_VMM_DOMAIN_COMMAND_H_

#include <optional>
#include <ostream>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/command_line.h"
#include "vmm/flags.h"
#include "vmm/libvirt/domain/domain_guest.h"
#include "vmm/options.h"

namespace quire {

// A domain that the user wants to run, read.
struct GivenDomain {
  std::string from;  // for people: the file, or the connection
  std::string xml;
  DomainReading reading;
};

// The flags of `quire run` that name a domain.
FlagGroup DomainFlags();

// What they name; nothing without --domain. Errors: InvalidArgument: there is no such file, or it is no domain; those
// of OpenLibvirt and of what it gives.
absl::StatusOr<std::optional<GivenDomain>> DomainFromFlags();

// Whether it is only to be looked at.
bool OnlyCheckDomain();

// Says what of the domain its guest will not have. Error: InvalidArgument, the guest is not what is described.
absl::Status ShowDomain(const GivenDomain& domain, std::ostream& out);

// `given` has the names of the flags that were given. Errors: InvalidArgument.
absl::StatusOr<RunOptions> OptionsOf(const GivenDomain& domain, const std::set<std::string>& given);

// All but what is said of exit statuses.
std::string DomainXmlHelp();

// Prints the XML of a guest of a run. Errors: InvalidArgument, those of the command line, or the run's answer.
absl::Status DomainXmlCommand(absl::Span<const absl::string_view> args, Console& console);

}  // namespace quire

#endif  // QUIRE_VMM_DOMAIN_COMMAND_H_
