// The grammar of a command's flags, and its help, over Abseil's flag registry.
//
// absl::ParseCommandLine is not used: it ends the process itself, with status 1 and in its own words, where this
// program promises status 2 and one sentence, and it does not know that `quire run` and `quire doctor` take different
// flags. The flags themselves (types, defaults, help texts) are Abseil's.
#ifndef QUIRE_VMM_FLAGS_H_
#define QUIRE_VMM_FLAGS_H_

#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace quire {

// How the help shows a flag that ABSL_FLAG defines.
struct FlagHelp {
  std::string name = {};
  std::string value = {};       // what stands after "=": "SIZE"
  std::string wants = {};       // what to do about a value that cannot be parsed: "write a size such as 256M"
  std::string bare_value = {};  // what the flag without a value means; empty if it needs one
};

struct FlagGroup {
  std::string title;
  std::vector<FlagHelp> flags;
};

// Sets the flags of `groups` from `args`: --name=value, --name value, with one dash or two, --long-name as well as
// --long_name. A flag given twice has its
// last value. `command` ("quire run") is for the error messages, which are sentences without a full stop. `given`, if
// it is not null, gets the names of the flags that were given. Errors: InvalidArgument. Not thread safe: flags are
// global.
absl::Status ParseFlags(absl::string_view command, absl::Span<const absl::string_view> args,
                        const std::vector<FlagGroup>& groups, std::set<std::string>* given = nullptr);

// Whether the user asks for help: --help or -h, with one dash or two and whatever value, anywhere before "--".
bool WantsHelp(absl::Span<const absl::string_view> args);

// The groups with their flags, what each does and its default, in lines of at most 100 columns.
std::string FlagsHelp(const std::vector<FlagGroup>& groups);

}  // namespace quire

#endif  // QUIRE_VMM_FLAGS_H_
