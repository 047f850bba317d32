#include "vmm/flags.h"

#include <optional>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/check.h"
#include "vmm/text.h"

namespace quire {
namespace {

constexpr size_t kWidth = 100;
constexpr size_t kHelpColumn = 26;

// Words of a name may be joined by dashes as well.
const FlagHelp* Find(const std::vector<FlagGroup>& groups, absl::string_view spelled) {
  const std::string name = absl::StrReplaceAll(spelled, {{"-", "_"}});
  for (const FlagGroup& group : groups) {
    for (const FlagHelp& flag : group.flags) {
      if (flag.name == name) return &flag;
    }
  }
  return nullptr;
}

absl::CommandLineFlag& Registered(const FlagHelp& flag) {
  absl::CommandLineFlag* registered = absl::FindCommandLineFlag(flag.name);
  QUIRE_CHECK(registered != nullptr);  // the table names a flag that no ABSL_FLAG defines
  return *registered;
}

absl::Status Unknown(absl::string_view command, absl::string_view name, const std::vector<FlagGroup>& groups) {
  std::vector<std::string> names = {"help"};
  for (const FlagGroup& group : groups) {
    for (const FlagHelp& flag : group.flags) names.push_back(flag.name);
  }
  const std::string nearest = Nearest(name, names);
  const std::string advice = nearest.empty() ? absl::StrCat("`", command, " --help` lists them")
                                             : absl::StrCat("did you mean --", nearest, "?");
  return absl::InvalidArgumentError(absl::StrCat("--", name, " is not a flag of ", command, ": ", advice));
}

// Nothing if `arg` is not a flag. `name` and `value` are parts of `arg`.
struct Argument {
  absl::string_view name;
  std::optional<absl::string_view> value;
};
std::optional<Argument> SplitFlag(absl::string_view arg) {
  if (!absl::ConsumePrefix(&arg, "-")) return std::nullopt;
  absl::ConsumePrefix(&arg, "-");
  if (arg.empty()) return std::nullopt;
  const size_t equals = arg.find('=');
  if (equals == absl::string_view::npos) return Argument{arg, std::nullopt};
  return Argument{arg.substr(0, equals), arg.substr(equals + 1)};
}

absl::Status Set(const FlagHelp& flag, absl::string_view value) {
  if (value.empty()) return absl::InvalidArgumentError(absl::StrCat("--", flag.name, " has no value: ", flag.wants));
  std::string ignored;  // Abseil's own words
  if (Registered(flag).ParseFrom(value, &ignored)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--", flag.name, "=", value, " is not understood: ", flag.wants));
}

std::string HelpOf(const FlagHelp& flag) {
  const absl::CommandLineFlag& registered = Registered(flag);
  std::string text = registered.Help();
  const std::string initial = registered.DefaultValue();
  if (!initial.empty()) absl::StrAppend(&text, " (default ", initial, ")");
  const std::string value =
      flag.bare_value.empty() ? absl::StrCat("=", flag.value) : absl::StrCat("[=", flag.value, "]");
  return absl::StrFormat("%-*s%s\n", kHelpColumn, absl::StrCat("  --", flag.name, value),
                         Wrap(text, kWidth, kHelpColumn));
}

}  // namespace

absl::Status ParseFlags(absl::string_view command, absl::Span<const absl::string_view> args,
                        const std::vector<FlagGroup>& groups, std::set<std::string>* given) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::optional<Argument> argument = SplitFlag(args[i]);
    if (!argument) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", args[i], "\" is not a flag: `", command, " --help` lists what ", command, " takes"));
    }
    const FlagHelp* flag = Find(groups, argument->name);
    if (flag == nullptr) return Unknown(command, argument->name, groups);
    absl::string_view value = argument->value.value_or(flag->bare_value);
    if (!argument->value && flag->bare_value.empty() && i + 1 < args.size()) value = args[++i];
    if (absl::Status set = Set(*flag, value); !set.ok()) return set;
    if (given != nullptr) given->insert(flag->name);
  }
  return absl::OkStatus();
}

bool WantsHelp(absl::Span<const absl::string_view> args) {
  for (absl::string_view arg : args) {
    if (arg == "--") return false;
    const std::optional<Argument> argument = SplitFlag(arg);
    if (argument && (argument->name == "help" || argument->name == "h")) return true;
  }
  return false;
}

std::string FlagsHelp(const std::vector<FlagGroup>& groups) {
  std::string text;
  for (const FlagGroup& group : groups) {
    absl::StrAppend(&text, group.title, "\n");
    for (const FlagHelp& flag : group.flags) text += HelpOf(flag);
    text += "\n";
  }
  return text;
}

}  // namespace quire
