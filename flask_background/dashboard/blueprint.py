"""The blueprint of the dashboard: its addresses, each of them behind ``allow``."""

from __future__ import annotations

from flask import Blueprint
from flask.blueprints import BlueprintSetupState

from flask_background.dashboard import actions, pages
from flask_background.dashboard.access import Allow, check_allow
from flask_background.dashboard.assets import asset
from flask_background.dashboard.visits import guarded


def create_dashboard(*, allow: Allow | None = None) -> Blueprint:
    """Return a blueprint with pages about the items, tasks, schedules and processes of an app.

    ``allow`` says who may see them: a function without arguments, which is called for every request. It
    returns "admin" for one who may look and act, "read" for one who may only look, None for nobody (403), or
    a response such as a redirect to the login. A pair such as ``("admin", "ann")`` names the visitor for the
    log. Raises ConfigurationError without an ``allow``. The app needs a secret key.

    ::

        app.register_blueprint(create_dashboard(allow=role_of_user), url_prefix="/background")
    """
    checked = check_allow(allow)
    blueprint = Blueprint("background_dashboard", __name__)
    for rule, view in (
        ("/", pages.overview),
        ("/items", pages.items),
        ("/items/<item_id>", pages.item),
        ("/tasks", pages.tasks),
        ("/schedules", pages.schedules),
        ("/processes", pages.processes),
        ("/confirm/<action>", actions.confirm),
    ):
        blueprint.add_url_rule(rule, view.__name__, guarded(checked, view))
    for rule, act in (
        ("/items/<item_id>/<action>", actions.act_on_item),
        ("/act/<action>", actions.act_on_items),
        ("/schedules/run", actions.run_now),
        ("/pauses/<action>", actions.change_pause),
    ):
        blueprint.add_url_rule(rule, act.__name__, guarded(checked, act, acts=True), methods=["POST"])
    blueprint.add_url_rule("/assets/<name>", "asset", asset)
    blueprint.record(_enable_monitoring)
    return blueprint


def _enable_monitoring(state: BlueprintSetupState) -> None:
    """Let all processes of the app tell of their items in memory, from their start on."""
    background = state.app.extensions.get("background")
    if background is not None:  # otherwise each process begins with its first page
        background.enable_monitoring(state.app)
