#include "launcher/rank_agreement.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <set>

#include "core/blas_core.h"
#include "core/dispatch.h"
#include "core/file_io.h"
#include "core/rng.h"
#include "launcher/build_info.h"
#include "launcher/config/layer_list.h"
#include "launcher/config/values.h"

namespace spanwise {

namespace {

constexpr const char* kSameConfig = "start all ranks with the same config and the same --set options";
constexpr const char* kSameCall = "start all ranks with the same command";
constexpr size_t kShownBytes = 120;

// Places that may differ: what lies there is compared.
const std::set<std::string, std::less<>> kFree{"run.dir", "train.threads"};
const std::set<std::string, std::less<>> kPaths{"data.tokenizer.model", "data.train.path", "data.validation"};

Fact tokenizer_fact(const config::TokenizerConfig& tokenizer) {
  Fact fact{.field = "data.tokenizer", .value = "BYTES", .remedy = "give all ranks the same tokenizer"};
  if (tokenizer.kind() == config::TokenizerConfig::SENTENCEPIECE) {
    fact.value = fmt::format("with fingerprint {:016x}", hash_name(read_file(tokenizer.model())));
    fact.place = tokenizer.model();
  }
  return fact;
}

/// With the checksum of all contents where every rank's copies have one (`checksums`): a copy that came
/// without its table is compared by the fingerprint alone, of the ends of the tokens.
Fact dataset_fact(const std::string& field, const IndexedDataset& dataset, uint64_t fingerprint,
                  bool checksums) {
  std::string value = fmt::format("'{}' of {} tokens with fingerprint {:016x}", dataset.name(),
                                  dataset.num_tokens(), fingerprint);
  if (checksums) value += fmt::format(" and checksum {:08x}", dataset.meta()->contents());
  return {.field = field,
          .value = std::move(value),
          .remedy = "give all ranks the same files",
          .place = dataset.prefix()};
}

Fact validation_fact(const IndexedDataset& dataset, bool checksums) {
  return dataset_fact("validation data", dataset, dataset.fingerprint(), checksums);
}

/// For each dataset, whether every rank has its checksums. Collective.
std::vector<bool> with_checksums(Comm& world, const std::vector<const IndexedDataset*>& datasets) {
  std::vector<double> lacking;
  for (const IndexedDataset* dataset : datasets) lacking.push_back(dataset->meta() ? 0 : 1);
  world.all_reduce("data", lacking);
  std::vector<bool> with;
  for (const double ranks : lacking) with.push_back(ranks == 0);
  return with;
}

/// What there is to say of datasets that are compared without checksums; the others' are told apart.
std::string fingerprints_alone(const std::vector<const IndexedDataset*>& datasets,
                               const std::vector<bool>& checksums) {
  std::vector<std::string> alone;
  for (size_t d = 0; d < datasets.size(); ++d) {
    if (!checksums[d]) alone.push_back(datasets[d]->prefix());
  }
  if (alone.empty()) return "";
  return fmt::format(
      "a rank has no table of checksums of {}: the ranks' copies are compared by their ends alone",
      fmt::join(alone, ", "));
}

std::string encode(const std::vector<Fact>& facts) {
  std::string text;
  for (const Fact& fact : facts) {
    for (const std::string& part : {fact.field, fact.value, fact.place}) text.append(part).push_back('\0');
  }
  return text;
}

std::vector<Fact> decode(const std::string& text) {
  std::vector<std::string> parts;
  for (size_t begin = 0, end = 0; (end = text.find('\0', begin)) != text.npos; begin = end + 1)
    parts.push_back(text.substr(begin, end - begin));
  std::vector<Fact> facts;
  for (size_t i = 0; i + 2 < parts.size(); i += 3)
    facts.push_back({.field = parts[i], .value = parts[i + 1], .place = parts[i + 2]});
  return facts;
}

std::string shown(const Fact& fact) {
  std::string value = fact.value.empty() ? "nothing" : fact.value;
  if (value.size() > kShownBytes) value = value.substr(0, kShownBytes) + "…";
  return fact.place.empty() ? value : fmt::format("{} ({})", value, fact.place);
}

/// What rank `rank` has otherwise than rank 0, as a sentence; empty if nothing.
std::string difference(int rank, const std::vector<Fact>& mine, const std::vector<Fact>& expected) {
  const auto differ = [](const Fact& a, const Fact& b) { return a.field != b.field || a.value != b.value; };
  const size_t common = std::min(mine.size(), expected.size());
  size_t first = 0, others = 0;
  while (first < common && !differ(mine[first], expected[first])) ++first;
  if (first == common) {
    if (mine.size() == expected.size()) return "";
    return fmt::format("Rank {} compares {} settings where rank 0 compares {}; {}.", rank, mine.size(),
                       expected.size(), kSameCall);
  }
  for (size_t i = first + 1; i < common; ++i)
    others += mine[i].field == expected[i].field && differ(mine[i], expected[i]);
  const Fact &a = mine[first], &b = expected[first];
  const std::string theirs = a.field == b.field ? shown(b) : fmt::format("{} {}", b.field, shown(b));
  const std::string more = others == 0 ? ""
                                       : fmt::format(" ({} other setting{} differ{})", others,
                                                     others == 1 ? "" : "s", others == 1 ? "s" : "");
  return fmt::format("Rank {} has {} {} where rank 0 has {}{}; {}.", rank, a.field, shown(a), theirs, more,
                     a.remedy);
}

void warn_of_other_processors(Comm& world) {
  const std::vector<std::string> cores = world.all_gather("blas_cores", blas_core());
  const auto other = std::find_if(cores.begin(), cores.end(), [&](auto& core) { return core != cores[0]; });
  if (other == cores.end() || world.rank() > 0) return;
  spdlog::warn(
      "OpenBLAS computes with its {} kernels on rank 0 and with its {} kernels on rank {}: the same run on "
      "other processors has other last digits",
      cores[0], *other, other - cores.begin());
}

}  // namespace

void require_agreement(Comm& world, std::string_view name, const std::vector<Fact>& mine) {
  if (world.size() == 1) return;
  std::string expected = encode(mine);
  world.broadcast(name, expected);
  const std::string complaint = difference(world.rank(), mine, decode(expected));
  for (const std::string& sentence : world.all_gather(name, complaint)) {
    if (!sentence.empty()) throw UserError(sentence);
  }
}

std::vector<Fact> config_facts(const RunConfig& config) {
  // Letters without a place in the model are nobody's affair.
  RunConfig used = config;
  *used.mutable_model() = with_used_layers(config.model());
  std::vector<Fact> facts;
  for (const ConfigValue& value : config_values(used)) {
    if (kFree.contains(value.field)) continue;
    const std::string given = value.text == "\"\"" ? "empty" : "given";
    facts.push_back({value.path, kPaths.contains(value.field) ? given : value.text, kSameConfig});
  }
  return facts;
}

std::string agree_on_data(Comm& world, const Loader& train,
                          const std::optional<SequentialLoader>& validation) {
  if (world.size() == 1) return "";
  std::vector<const IndexedDataset*> datasets;
  for (const IndexedDataset& dataset : train.datasets()) datasets.push_back(&dataset);
  if (validation) datasets.push_back(&validation->dataset());
  const std::vector<bool> checksums = with_checksums(world, datasets);
  std::vector<Fact> facts;
  const std::vector<DataCursor::Dataset> cursors = train.cursor(0).datasets;
  for (size_t d = 0; d < cursors.size(); ++d)
    facts.push_back(
        dataset_fact(fmt::format("data.train[{}]", d), *datasets[d], cursors[d].fingerprint, checksums[d]));
  if (validation) facts.push_back(validation_fact(validation->dataset(), checksums.back()));
  require_agreement(world, "data", facts);
  return fingerprints_alone(datasets, checksums);
}

std::string agree_on_data(Comm& world, const SequentialLoader& validation) {
  if (world.size() == 1) return "";
  const std::vector<bool> checksums = with_checksums(world, {&validation.dataset()});
  require_agreement(world, "data", {validation_fact(validation.dataset(), checksums[0])});
  return fingerprints_alone({&validation.dataset()}, checksums);
}

Fact option_fact(const std::string& option, const std::string& value) {
  return {.field = "--" + option, .value = value, .remedy = kSameCall};
}

std::string build_flavour() {
  std::string flavour = "compiler " __VERSION__;
#ifdef __OPTIMIZE__
  flavour += ", optimised";
#endif
#ifdef __FMA__
  flavour += ", FMA";
#endif
#ifdef __AVX2__
  flavour += ", AVX2";
#endif
#ifdef __AVX512F__
  flavour += ", AVX-512";
#endif
  return flavour + (kHasCuda ? ", CUDA" : ", no CUDA");
}

void agree_on_call(Comm& world, const std::vector<std::string>& args) {
  const auto asks_help = [](const std::string& arg) { return arg == "--help" || arg == "-h"; };
  const bool help = args.size() < 2 || std::any_of(args.begin(), args.end(), asks_help);
  require_agreement(world, "call",
                    {{"the verb", args.empty() ? "" : fmt::format("'{}'", args[0]), kSameCall},
                     {"a command that", help ? "asks for help" : "does something", kSameCall}});
}

void agree_on_run(Comm& world, const RunConfig& config, std::vector<Fact> verb_facts) {
  if (world.size() == 1) return;
  constexpr const char* kSameBuild =
      "give all ranks the same program (cmake --preset portable builds one for different processors)";
  std::vector<Fact> facts{{"the commit", git_hash(), kSameBuild}, {"the build", build_flavour(), kSameBuild}};
  std::move(verb_facts.begin(), verb_facts.end(), std::back_inserter(facts));
  for (Fact& fact : config_facts(config)) facts.push_back(std::move(fact));
  facts.push_back(tokenizer_fact(config.data().tokenizer()));
  require_agreement(world, "run", facts);
  warn_of_other_processors(world);
}

}  // namespace spanwise
